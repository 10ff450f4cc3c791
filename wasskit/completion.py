"""Completion scripts for the shells. Each asks the program itself for candidates, so they age with the shell only.

The protocol is Typer's: the variable ``_WASSKIT_COMPLETE`` names the instruction, the words typed so far come in
further variables, the candidates go to stdout.
"""

from __future__ import annotations

from pathlib import Path

from wasskit.errors import UserError
from wasskit.system.files import replace_text

_BASH = """\
# Tab completion of wasskit for bash. Source this file, e.g. from ~/.bashrc.
_wasskit_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _WASSKIT_COMPLETE=complete_bash "$1"))
    [[ ${COMPREPLY[0]} != */ ]] || compopt -o nospace 2>/dev/null  # a folder is gone on with
    case "${COMP_WORDS[COMP_CWORD]}" in
        [\\"\\']*) ;;
        *) [[ ! ${COMPREPLY[0]} ]] || COMPREPLY=($(printf '%q\\n' "${COMPREPLY[@]}")) ;;  # spaces, quotes
    esac
}
complete -o default -F _wasskit_complete wasskit
"""

_ZSH = """\
#compdef wasskit
# Tab completion of wasskit for zsh. Put this file as _wasskit into a folder of $fpath, or source it after compinit.
# Candidates come one a line, with their help behind a tab: the format that fish reads needs no quoting.
_wasskit_complete() {
    local entry value
    local -a found plain folders
    found=("${(@f)$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _WASSKIT_COMPLETE=complete_fish wasskit)}")
    for entry in ${found:#}; do
        value="${entry%%$'\\t'*}"
        entry="${${value//\\\\/\\\\\\\\}//:/\\\\:}:${${entry#"$value"}#$'\\t'}"
        [[ "$value" == */ ]] && folders+=("${entry%:}") || plain+=("${entry%:}")
    done
    (( ${#plain} + ${#folders} )) || { _files; return }
    _describe candidate plain -- folders -S ''  # a folder is gone on with
}
if [[ "$funcstack[1]" == "_wasskit" ]]; then
    _wasskit_complete "$@"
else
    compdef _wasskit_complete wasskit
fi
"""

_FISH = """\
# Tab completion of wasskit for fish. Put this file into ~/.config/fish/completions.
function __wasskit_ask
    env _WASSKIT_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) wasskit
end
complete --command wasskit --no-files --condition "__wasskit_ask is-args" --arguments "(__wasskit_ask get-args)"
"""

_POWERSHELL = """\
# Tab completion of wasskit for PowerShell. Dot-source this file, e.g. from $PROFILE.
Register-ArgumentCompleter -Native -CommandName wasskit -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $Env:_WASSKIT_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $commandAst.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $wordToComplete
    try {
        wasskit | ForEach-Object {
            $value, $help = $_ -split ":::", 2
            if (-not $help) { $help = $value }
            [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
        }
    } finally {
        Remove-Item Env:_WASSKIT_COMPLETE, Env:_TYPER_COMPLETE_ARGS, Env:_TYPER_COMPLETE_WORD_TO_COMPLETE
    }
}
"""

SCRIPTS = {
    "bash": ("wasskit.bash", _BASH),
    "zsh": ("_wasskit", _ZSH),
    "fish": ("wasskit.fish", _FISH),
    "powershell": ("wasskit.ps1", _POWERSHELL),
}


def script(shell: str) -> str:
    """The completion script of a shell."""
    return SCRIPTS[shell][1]


def write_scripts(folder: Path) -> list[Path]:
    """Write every shell's script into a folder, made if needed; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in SCRIPTS.values():
        path = folder / name
        replace_text(path, text)
        written.append(path)
    return written


def install(shell: str, home: Path) -> tuple[Path, Path | None]:
    """Install a shell's script for one user.

    Returns:
        The script's file, and the start-up file that was made to load it (None where the shell finds it by itself).

    Raises:
        UserError: the shell's start-up file is not at a fixed place.
    """
    if shell == "fish":
        path = home / ".config" / "fish" / "completions" / "wasskit.fish"
        start_up = None
    elif shell == "bash":
        path = home / ".local" / "share" / "wasskit" / "wasskit.bash"
        start_up = home / ".bashrc"
    elif shell == "zsh":
        path = home / ".local" / "share" / "wasskit" / "_wasskit"
        start_up = home / ".zshrc"
    else:
        raise UserError(
            "PowerShell's profile differs between systems: run `wasskit completions show powershell >> $PROFILE`."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, script(shell))
    if start_up is not None:
        line = f"source '{path}'"
        if shell == "zsh":
            line = f"autoload -Uz compinit && compinit && {line}"
        present = start_up.read_text(encoding="utf-8", errors="replace") if start_up.is_file() else ""
        if str(path) not in present:
            separator = "" if not present or present.endswith("\n") else "\n"
            # Behind what is there, whatever its encoding: a kill or a full disk costs nothing of it.
            with start_up.open("a", encoding="utf-8") as file:
                file.write(f"{separator}{line}\n")
    return path, start_up

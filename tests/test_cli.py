"""The command itself: help, version, errors, recipes, completions, start-up cost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wasskit import __version__
from wasskit.cli import build_root, validate_recipe
from wasskit.completion import SCRIPTS, install, write_scripts
from wasskit.plugins import BUILT_IN, plugin_targets
from wasskit.recipes import load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "sklearn", "timm", "scipy")


def test_version(run_cli: Callable[..., Any]) -> None:
    result = run_cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"wasskit {__version__}\n")


@pytest.mark.parametrize("argv", [[], ["--help"], ["recipes"], ["mrl", "--help"], ["mrl", "train", "--help"]])
def test_help_succeeds_and_goes_to_stdout(run_cli: Callable[..., Any], argv: list[str]) -> None:
    result = run_cli(*argv)
    assert result.exit_code == 0
    assert "Usage: wasskit" in result.stdout
    assert result.stderr == ""


def test_every_plugin_is_listed(run_cli: Callable[..., Any]) -> None:
    listing = run_cli("--help").stdout
    for name in plugin_targets():
        assert f" {name} " in listing


def _all_command_paths() -> list[list[str]]:
    import typer.core

    paths: list[list[str]] = []

    def walk(group: Any, path: list[str]) -> None:
        for name in group.entries:
            command = group.entries[name].load()
            if isinstance(command, typer.core.TyperGroup):
                walk(command, [*path, name])
            else:
                paths.append([*path, name])

    walk(build_root(), [])
    return paths


@pytest.mark.parametrize("path", _all_command_paths(), ids=" ".join)
def test_every_command_has_help(run_cli: Callable[..., Any], path: list[str]) -> None:
    result = run_cli(*path, "--help")
    assert result.exit_code == 0, result.stderr
    assert "Usage: wasskit " + " ".join(path) in result.stdout


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (["mlr"], ["No such command 'mlr'", "mrl"]),
        (["mrl", "trian"], ["No such command 'trian'", "train"]),
        (["mrl", "train", "--epohcs", "3"], ["No such option", "--epochs"]),
        (["recipes", "show", "mrl/imagnet100"], ["No recipe named 'mrl/imagnet100'", "mrl/imagenet100"]),
        (["recipes", "show", "nowhere.toml"], ["No recipe file at nowhere.toml"]),
    ],
)
def test_wrong_requests_exit_2_with_a_hint(
    run_cli: Callable[..., Any], words: Callable[[str], str], argv: list[str], fragments: list[str]
) -> None:
    result = run_cli(*argv)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    for fragment in fragments:
        assert fragment in words(result.stderr)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["mlr"], "No such command 'mlr' of `wasskit`. Did you mean 'mrl'?"),
        (["mrl", "trian"], "No such command 'trian' of `wasskit mrl`. Did you mean 'train'?"),
        (["mrl", ""], "No such command '' of `wasskit mrl`. `wasskit mrl --help` lists them."),
        (["--versoin"], "No such option '--versoin' of `wasskit`. Did you mean '--version'?"),
        (["mrl", "--hlep"], "No such option '--hlep' of `wasskit mrl`. Did you mean '--help'?"),
        (
            ["mrl", "train", "--epohcs", "3"],
            "No such option '--epohcs' of `wasskit mrl train`. Did you mean '--epochs'?",
        ),
        (
            ["mrl", "train", "--zzz"],
            "No such option '--zzz' of `wasskit mrl train`. `wasskit mrl train --help` lists what it takes.",
        ),
        (["mrl", "train", "--epochs"], "--epochs of `wasskit mrl train` needs a value."),
        (
            ["mrl", "train", "--json=1"],
            "--json of `wasskit mrl train` takes no value: leave out the one that is given.",
        ),
        (["recipes", "show"], "`wasskit recipes show` needs RECIPE: Name or path of a recipe."),
        (
            ["recipes", "show", "a", "b"],
            "`wasskit recipes show`: Got unexpected extra argument(s) (b). `wasskit recipes show --help` lists what it "
            "takes.",
        ),
        (["mrl", "train", "--dims", "8", "16"], "--dims takes a list separated by commas: --dims 8,16."),
        (["mrl", "train", "--dims", "8,", "16"], "--dims takes a list separated by commas: --dims 8,16."),
    ],
)
@pytest.mark.parametrize("json", [False, True])
def test_command_lines_that_cannot_be_parsed_are_told_like_other_errors(
    run_cli: Callable[..., Any], words: Callable[[str], str], argv: list[str], sentence: str, json: bool
) -> None:
    result = run_cli(*argv[:2], *(["--json"] if json and len(argv) > 2 else []), *argv[2:])
    assert result.exit_code == 2
    assert result.stdout == ""
    # Older Click says "argument (b)" for one.
    assert words(result.stderr).replace("argument (", "argument(s) (") == f"Error: {sentence}"


def test_unforeseen_errors_show_their_traceback_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("wasskit.recipes.recipes_folder", broken)
    result = run_cli("recipes", "list")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "ValueError" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (OSError(28, "No space left on device", "/x/last.pt"), 2, "disk is full (/x/last.pt)"),
        (PermissionError(13, "Permission denied", "/x"), 2, "No permission (/x)"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 2, "No such file or directory: /x"),
        (FileExistsError(17, "File exists", "/x"), 2, "File exists: /x"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("Symlink loop from '/x/loop'"), 2, "'/x/loop' is a link that leads back to itself"),
        (RuntimeError("[...] DefaultCPUAllocator: can't allocate memory: 1 bytes"), 1, "out of memory"),
        (UnicodeEncodeError("utf-8", "n\udcff", 1, 2, "surrogates not allowed"), 2, "rename it (n\\udcff)"),
    ],
)
def test_errors_of_the_machine_are_sentences(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any], error: Exception, code: int, fragment: str
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr("wasskit.recipes.recipes_folder", broken)
    result = run_cli("recipes", "list")
    assert result.exit_code == code
    assert fragment in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("torchrun", [True, False])
def test_a_wrong_request_is_said_once_however_the_ranks_were_started(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any], torchrun: bool
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    if not torchrun:
        monkeypatch.setenv("WASSKIT_SAVED", "ours")
    result = run_cli("recipes", "show", "nosuch")
    assert result.exit_code == 2
    assert ("(rank 1) No recipe named 'nosuch'" in result.stderr) is not torchrun


def test_a_broken_foreign_plugin_is_one_line_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    from wasskit import cli

    targets = {**BUILT_IN, "foreign": "no_such_module_anywhere:plugin"}
    monkeypatch.setattr(cli, "plugin_targets", lambda: targets)
    result = run_cli("--help")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "'foreign'" in result.stderr
    assert " mrl " in result.stdout
    assert run_cli("recipes", "list").stderr == ""


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Make a Typer application of another package the plugin ``foreign``: its module's name and its first command."""
    from wasskit import cli

    def mounted(module: str, command: str) -> None:
        (tmp_path / f"{module}.py").write_text(
            "import typer\nplugin = typer.Typer(help='From elsewhere.')\n"
            f"@plugin.command()\n{command}@plugin.command()\ndef other(): pass\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(cli, "plugin_targets", lambda: {**BUILT_IN, "foreign": f"{module}:plugin"})

    return mounted


def test_a_foreign_typer_application_is_mounted(mount: Callable[[str, str], None], run_cli: Callable[..., Any]) -> None:
    mount("foreign_plugin", "def hello(): print('hello from elsewhere')\n")
    assert "From elsewhere." in run_cli("--help").stdout
    assert run_cli("foreign", "hello").stdout == "hello from elsewhere\n"


def test_a_request_to_stop_that_comes_back_as_another_error_is_one(
    mount: Callable[[str, str], None], run_cli: Callable[..., Any]
) -> None:
    """Inside an import of compiled code the exception of a signal becomes an ImportError."""
    mount(
        "stopped_plugin",
        "def draw():\n    from wasskit.system.signals import Stopped\n    try:\n        raise Stopped(15)\n"
        "    except Stopped as stop:\n        raise ImportError('initialization failed') from stop\n",
    )
    result = run_cli("foreign", "draw")
    assert result.exit_code == 143
    assert result.stderr.strip() == "Error: Stopped by SIGTERM."


def test_ctrl_c_after_the_last_word_is_no_traceback() -> None:
    """The interpreter is being torn down: what is left of torch would print its surprise."""
    program = (
        "import atexit, os, signal, sys\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "from wasskit.__main__ import main\n"
        "sys.argv = ['wasskit', 'recipes', 'list']\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert "mrl/imagenet100" in ended.stdout
    assert ended.stderr == ""


# --- Recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    assert validate_recipe(name) == name


def test_recipes_can_be_listed_shown_copied_and_validated(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    listed = json.loads(run_cli("recipes", "list", "--json").stdout)["recipes"]
    assert [entry["name"] for entry in listed] == recipe_names()
    name = listed[0]["name"]
    shown = run_cli("recipes", "show", name)
    assert "command = " in shown.stdout
    copy = tmp_path / "mine.toml"
    assert run_cli("recipes", "copy", name, copy).exit_code == 0
    assert copy.read_text() == shown.stdout
    assert run_cli("recipes", "validate", copy).exit_code == 0
    again = run_cli("recipes", "copy", name, copy)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ('command = "mrl train"\n[options]\nepohcs = 3\n', ["Unknown key 'epohcs'", "Did you mean 'epochs'?"]),
        ('command = "mrl train"\n[options]\nepochs = "many"\n', ["Key 'epochs'", "whole number"]),
        ('command = "mrl train"\n[options]\nepochs = 0\n', ["Key 'epochs'", "at least 1"]),
        ('command = "mrl train"\nepochs = 3\n', ["Unknown key 'epochs'", "[options]"]),
        ('command = "mrl trian"\n', ["There is no command `wasskit mrl trian`"]),
        ("[options]\nepochs = 3\n", ["does not say which command"]),
        ("command = \n", ["not valid TOML", "line 1"]),
        ('command = "plot curves"\n', ["takes no recipe"]),
        ('command = "mrl train"\n[paper]\nmetrics = 3\n', ["'paper.metrics'", "table"]),
        ('command = "mrl train"\n[paper.metrics]\na = 1\nb = "94 %"\n', ["'paper.metrics'", "numbers: 'b' is '94 %'"]),
        ('command = "mrl train"\n[paper.metrics.x]\na = true\n', ["'paper.metrics'", "numbers: 'a' is True"]),
        ('command = "mrl train"\n[options]\nbatch-size = 8\nbatch_size = 9\n', ["twice"]),
    ],
)
def test_faulty_recipes_are_refused_with_file_and_key(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path, text: str, fragments: list[str]
) -> None:
    path = tmp_path / "faulty.toml"
    path.write_text(text)
    result = run_cli("recipes", "validate", path)
    assert result.exit_code == 2
    for fragment in [*fragments, "faulty.toml"]:
        assert fragment in words(result.stderr)


def test_a_recipe_may_begin_with_a_byte_order_mark(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mark.toml"
    path.write_text('command = "mrl train"\n', encoding="utf-8-sig")
    assert run_cli("recipes", "validate", path).exit_code == 0


def test_names_are_printed_as_they_are(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    name = next(iter(recipe_names()))
    copied = run_cli("recipes", "copy", name, tmp_path / "[bold] :smile: x.toml")
    assert "[bold] :smile: x.toml" in copied.stdout


def test_a_sentence_does_not_change_the_name_that_it_begins_with(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert run_cli("mrl", "evaluate", "mine").stderr.startswith("Error: mine is not a run directory")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors in a shell")
def test_closed_streams_and_names_that_are_no_text_are_survived() -> None:
    wasskit = [sys.executable, "-m", "wasskit"]
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *wasskit, "recipes", "list"], check=False)
    assert closed.returncode == 0
    code = "import sys; from wasskit import cli; cli.run = lambda argv: print('n\\udcff') or 0; cli.main()"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert printed.stdout == "n\\udcff\n"


def test_a_recipe_of_another_command_is_refused(run_cli: Callable[..., Any], words: Callable[[str], str]) -> None:
    name = next(name for name in recipe_names() if not name.startswith("mrl/"))
    result = run_cli("mrl", "train", "--recipe", name)
    assert result.exit_code == 2
    assert "not `wasskit mrl train`" in words(result.stderr)


# --- Completions -----------------------------------------------------------------------------------------------------


def test_the_completion_scripts_in_the_checkout_are_fresh(tmp_path: Path) -> None:
    for path in write_scripts(tmp_path):
        assert (ROOT / "completions" / path.name).read_text() == path.read_text(), (
            "stale: run `wasskit completions write completions --overwrite`"
        )


SHELLS = ("bash", "fish")
"""The protocols; zsh speaks that of fish."""


@pytest.fixture
def complete(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The candidates that a shell is given for the last word of a command line, by the shell's own protocol."""

    def candidates(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        asked = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        for name, value in {"_WASSKIT_COMPLETE": f"complete_{shell}", **asked}.items():
            monkeypatch.setenv(name, value)
        return [entry.split("\t")[0] for entry in run_cli().stdout.split("\n") if entry]

    return candidates


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wasskit m", {"mrl", "metrix"}),
        ("wasskit mrl tr", {"train"}),
        ("wasskit mrl train --dataset cifar10", {"cifar10", "cifar100"}),
        ("wasskit mrl train --backbone resnet5", {"resnet50"}),
        ("wasskit recipes show mrl/", {"mrl/imagenet100"}),
        ("wasskit mrl train --epo", {"--epochs"}),
        ("wasskit mrl train --precision ", {"fp32", "bf16", "fp16"}),
    ],
)
def test_completion_offers_commands_options_and_values(
    complete: Callable[..., list[str]], line: str, expected: set[str]
) -> None:
    assert expected <= set(complete(line))


def test_completion_offers_run_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wasskit.candidates import complete_runs

    run_dir = tmp_path / "runs" / "mrl" / "digits"
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert list(complete_runs("")) == ["runs/mrl/digits"]
    assert list(complete_runs("runs/m")) == ["runs/mrl/digits"]
    assert list(complete_runs("nowhere/x")) == []


RUNS = {
    "mrl/digits": "mrl train", "mrl/sweep": "mrl sweep", "ssl/byol": "ssl byol", "ssl/moco": "ssl moco",
    "metrix/digits": "metrix train", "w2gn/toy": "w2gn toy", "study/icc": "study icc",
}  # fmt: skip
OF = {
    "mrl train --resume": {"mrl/digits"},
    "mrl train --run-dir": {"mrl/digits"},
    "mrl sweep --resume": {"mrl/sweep"},
    "ssl byol --resume": {"ssl/byol"},
    "w2gn toy --resume": {"w2gn/toy"},
    "mrl evaluate": {"mrl/digits"},
    "mrl embed": {"mrl/digits"},
    "mrl export": {"mrl/digits"},
    "ssl evaluate": {"ssl/byol", "ssl/moco"},
    "ssl embed": {"ssl/byol", "ssl/moco"},
    "ssl export": {"ssl/byol", "ssl/moco"},
    "metrix search": {"metrix/digits"},
    "metrix export": {"metrix/digits"},
    "w2gn apply": {"w2gn/toy"},
    "w2gn export": {"w2gn/toy"},
    "study measure": {"mrl/digits", "mrl/sweep", "ssl/byol", "ssl/moco", "metrix/digits"},
    "plot table": set(RUNS),
    "plot report": set(RUNS),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind."""
    folder = tmp_path_factory.mktemp("runs-of-all-kinds")
    for name, command in RUNS.items():
        run = folder / "runs" / name
        (run if command == "mrl sweep" else run / "checkpoints").mkdir(parents=True)
        (run / "config.toml").write_text(f'command = "{command}"\n')
    return folder


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("asked", ["mrl train --resume", "mrl evaluate", "ssl embed", "plot table"])
def test_tab_offers_the_runs_that_a_command_takes_in_every_shell(
    complete: Callable[..., list[str]], runs: Path, asked: str, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    offered = {word for word in complete(f"wasskit {asked} ", shell) if word.count("/") == 2}
    assert offered == {f"runs/{name}" for name in OF[asked]}


@pytest.mark.parametrize("asked", OF)
def test_every_command_completes_its_own_runs_only(runs: Path, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    plugin, name, *flag = asked.split()
    command = build_root().entries[plugin].load().entries[name].load()
    wanted = [p for p in command.params if (flag[0] in p.opts if flag else p.param_type_name == "argument")]
    context = command.make_context(name, [], resilient_parsing=True)
    for typed in ("", "runs/", f"runs/{plugin}/"):
        offered = {item.value for item in wanted[0].shell_complete(context, typed)}
        found = {word for word in offered if (runs / word / "config.toml").is_file()}
        reachable = {f"runs/{run}" for run in OF[asked] if f"runs/{run}".startswith(typed)}
        assert found == reachable


def test_recipes_are_completed_for_the_command(complete: Callable[..., list[str]]) -> None:
    offered = complete("wasskit mrl sweep --recipe ")
    assert "mrl/ablation-lambda" in offered
    assert "mrl/imagenet100" not in offered


@pytest.mark.parametrize(
    ("argv", "suggested"),
    [
        (["recipes", "show", "imagnet100"], ["mrl/imagenet100"]),
        (["recipes", "show", "digits-comparisn"], ["mrl/digits-comparison"]),
        (["mrl", "train", "--recipe", "imagenet10"], ["mrl/imagenet100"]),
        (["mrl", "train", "--recipe", "ablation-lamda"], []),
        (["mrl", "sweep", "--recipe", "ablation-lamda"], ["mrl/ablation-lambda"]),
        (["w2gn", "toy", "--recipe", "w2gn/toy-swisroll"], ["w2gn/toy-swissroll"]),
    ],
)
def test_recipes_that_are_suggested_work(
    run_cli: Callable[..., Any], words: Callable[[str], str], argv: list[str], suggested: list[str]
) -> None:
    """Each name works where the wrong one stood: it is there, and is of the command that was called."""
    told = words(run_cli(*argv).stderr)
    named = re.findall(r"'([^']+)'", told.partition("Did you mean")[2])
    assert set(suggested) <= set(named)
    assert bool(named) is bool(suggested)
    for name in named:
        assert run_cli("recipes", "show", name).exit_code == 0
        if argv[0] != "recipes":
            assert load_recipe(name, command=" ".join(argv[:2])).name == name


def test_a_recipe_of_no_command_is_not_suggested(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text('command = "mrl trian"\n')
    told = words(run_cli("mrl", "train", "--recipe", tmp_path / "r.toml").stderr)
    assert "there is no such command, correct it in the recipe." in told


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_scripts_are_shown(run_cli: Callable[..., Any], shell: str) -> None:
    result = run_cli("completions", "show", shell)
    assert result.exit_code == 0
    assert "_WASSKIT_COMPLETE" in result.stdout


def test_an_installed_script_leaves_the_start_up_file_as_it_is(tmp_path: Path) -> None:
    start_up, own = tmp_path / ".bashrc", b"alias caf\xe9=true"  # Latin-1, without an end of line
    start_up.write_bytes(own)
    for _ in range(2):
        script, loaded = install("bash", tmp_path)
        assert loaded == start_up
        assert start_up.read_bytes() == own + f"\nsource '{script}'\n".encode()


def test_bash_reads_its_script_and_completes(tmp_path: Path) -> None:
    script = (
        f"source {ROOT}/completions/wasskit.bash; "
        f'wasskit() {{ {sys.executable} -m wasskit "$@"; }}; '
        'COMP_WORDS=(wasskit mrl tra); COMP_CWORD=2; _wasskit_complete wasskit; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["train"]


TYPED = {
    "wasskit mrl tra": ["train"],
    "wasskit mrl train --epoc": ["--epochs"],
    "wasskit mrl sweep --recipe mrl/ablation-lam": ["--recipe", "mrl/ablation-lambda"],
    "wasskit mrl evaluate runs/mrl/it": ['runs/mrl/it\'s $1: a "run"'],
    "wasskit mrl embed x own": ["x", "own photos/ending"],
}
"""What is typed before TAB, and the last words of the line that comes of it."""


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes_in_a_terminal(tmp_path: Path, shell: str) -> None:
    """With the script as it is installed, in a terminal of its own; ``printf`` then shows what the words became."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    install(shell, tmp_path)
    (tmp_path / "own photos").mkdir()
    (tmp_path / 'runs/mrl/it\'s $1: a "run"/checkpoints').mkdir(parents=True)
    (tmp_path / 'runs/mrl/it\'s $1: a "run"/config.toml').write_text('command = "mrl train"\n')
    (tmp_path / "wasskit").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m wasskit "$@"\n')
    (tmp_path / "wasskit").chmod(0o700)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "xterm"}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execvpe(shell, [shell, "-i"], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
    try:
        _read_until(terminal, b"\x1b[?2004h")  # pasting is possible: the line editor waits for keys
        for typed, expected in TYPED.items():
            more = "ending" if expected[-1].endswith("ending") else ""
            os.write(terminal, f"{typed}\t{more}\x01printf '<%s>' \x05; echo 'E'ND\r".encode())
            said = _read_until(terminal, b"END\r\n").decode().rpartition("<wasskit>")[2]
            assert re.findall("<(.*?)>", said)[-len(expected) :] == expected, said
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def _read_until(terminal: int, mark: bytes) -> bytes:
    """What a terminal says up to a mark, within a minute between two pieces."""
    said = b""
    while mark not in said:
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 65536)
    return said


def test_tab_tells_commands_in_whole_sentences(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_WASSKIT_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": "wasskit mrl ",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    told = dict(line.split("\t") for line in run_cli().stdout.splitlines())
    assert told == {name: entry.help for name, entry in build_root().entries["mrl"].load().entries.items()}


def test_bash_puts_no_space_behind_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    script = (
        f"source {ROOT}/completions/wasskit.bash; "
        f'wasskit() {{ {sys.executable} -m wasskit "$@"; }}; compopt() {{ echo "$@"; }}; COMP_CWORD=3; '
        'COMP_WORDS=(wasskit mrl evaluate r); _wasskit_complete wasskit; echo "${COMPREPLY[@]}"; '
        'COMP_WORDS=(wasskit mrl train --epoc); _wasskit_complete wasskit; echo "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.split() == ["-o", "nospace", "runs/", "--epochs"]


def test_info_names_what_the_package_declares(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What only tests need is neither missing nor offered."""
    declared = ["typer>=0.16", "absent-a", "absent-b; extra == 'some'", "absent-c; extra == 'test'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: declared)
    found = json.loads(run_cli("info", "--json").stdout)
    assert found["libraries"].pop("typer") is not None
    assert found["libraries"] == {"absent-a": None}
    assert found["optional"] == {"absent-b": None}


# --- Start-up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "run(['--help'])",
        "run(['mrl', '--help'])",
        "run(['mrl', 'train', '--help'])",
        "run(['ssl', 'byol', '--help'])",
        "run(['recipes', 'list'])",
        "import os; os.environ.update(_WASSKIT_COMPLETE='complete_bash', COMP_WORDS='wasskit mrl train --dataset ',"
        " COMP_CWORD='4'); run([])",
        "import wasskit",
    ],
)
def test_these_paths_import_nothing_heavy(code: str) -> None:
    program = f"from wasskit.cli import run\n{code}\nimport sys\nprint('LOADED', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("words", ["--help", "mrl --help", "mrl train --help"])
def test_help_converts_nothing(words: str) -> None:
    """Typer converts values by pydantic, which takes as long to import as a page of help to show."""
    program = (
        f"from wasskit.cli import run\nrun({words.split()})\nimport sys\nprint('LOADED', 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split()[-2:] == ["LOADED", "False"]


@pytest.mark.slow
def test_every_command_module_is_cheap_to_declare() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests'); from test_cli import _all_command_paths\n"
        "paths = _all_command_paths()\nprint('LOADED', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(done.stdout.rpartition("LOADED")[2].split()) & set(HEAVY)


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wasskit", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"wasskit {__version__}\n"


def test_an_interrupt_while_importing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "wasskit", "--version"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped by SIGINT.\n")


def test_waiting_threads_sleep_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(
        "import os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules); raise KeyboardInterrupt\n"
    )
    said = []
    variables = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environment = {k: v for k, v in os.environ.items() if k not in variables}
        done = subprocess.run(
            [sys.executable, "-m", "wasskit"],
            capture_output=True, text=True, cwd=tmp_path,
            env={**environment, **given, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )  # fmt: skip
        said.append(done.stdout.split())
    assert said == [["20000", "False"], ["None", "False"], ["7", "False"]]


def test_a_measurement_without_memory_names_its_own_options(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")

    monkeypatch.setattr("wasskit.trained.kind.load_model", full)
    result = run_cli("mrl", "embed", str(tmp_path), str(tmp_path), "-o", str(tmp_path / "x.npy"))
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "ran out of memory (CUDA error: out of memory): try a smaller --batch-size, or --precision bf16." in said
    assert "--accumulate" not in said
    assert "Traceback" not in said

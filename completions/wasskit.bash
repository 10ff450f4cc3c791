# Tab completion of wasskit for bash. Source this file, e.g. from ~/.bashrc.
_wasskit_complete() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _WASSKIT_COMPLETE=complete_bash "$1"))
    [[ ${COMPREPLY[0]} != */ ]] || compopt -o nospace 2>/dev/null  # a folder is gone on with
    case "${COMP_WORDS[COMP_CWORD]}" in
        [\"\']*) ;;
        *) [[ ! ${COMPREPLY[0]} ]] || COMPREPLY=($(printf '%q\n' "${COMPREPLY[@]}")) ;;  # spaces, quotes
    esac
}
complete -o default -F _wasskit_complete wasskit

# Completion of pmjq for bash. pmjq itself answers, see pmjq/shells.py: it gets the line
# up to the cursor and what bash would replace of it, and says what may stand there, quoted.

_pmjq() {
    local answer kind value help
    COMPREPLY=()
    answer=$(_PMJQ_COMPLETE=bash "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            open) COMPREPLY+=("$value"); compopt -o nospace ;;
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
        esac
    done <<<"$answer"
}

complete -F _pmjq pmjq

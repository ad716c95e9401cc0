# bash completion of ringlet, ringletd and ringlet-dump. The options are asked from --help, so that
# they never differ from the program's.
_ringlet_options() {
    "$@" --help 2>/dev/null | grep -o -- '^ *--[a-z-]*' | tr -d ' '
}

_ringlet() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} program=${COMP_WORDS[0]}
    COMPREPLY=()
    case $prev in
        --model|--socket|--tokens|--tools|--config)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            compopt -o filenames 2>/dev/null
            return ;;
        --device) mapfile -t COMPREPLY < <(compgen -W 'auto cpu cuda' -- "$cur"); return ;;
        --dtype) mapfile -t COMPREPLY < <(compgen -W 'auto f32 f16 bf16' -- "$cur"); return ;;
        --kv-type) mapfile -t COMPREPLY < <(compgen -W 'auto f32 f16 bf16 q8_0' -- "$cur"); return ;;
        --load-format) mapfile -t COMPREPLY < <(compgen -W 'auto dummy' -- "$cur"); return ;;
        --policy) mapfile -t COMPREPLY < <(compgen -W 'fair fcfs deadline longest-prefix' -- "$cur"); return ;;
        --spin) mapfile -t COMPREPLY < <(compgen -W 'adaptive always never' -- "$cur"); return ;;
        --prefix-cache) mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$cur"); return ;;
    esac
    if [[ ${program##*/} == ringlet && $COMP_CWORD -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'run chat cache status tokenize detokenize template doctor --help --version' -- "$cur")
    elif [[ $cur == -* ]]; then
        local command=()
        [[ ${program##*/} == ringlet ]] && command=("${COMP_WORDS[1]}")
        mapfile -t COMPREPLY < <(compgen -W "$(_ringlet_options "$program" "${command[@]}") --help --version" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames 2>/dev/null
    fi
}

complete -F _ringlet ringlet ringletd ringlet-dump ringtop

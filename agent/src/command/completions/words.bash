
# What clap's completions do not know: --option=value, which readline splits at the '=', and the
# parameters of the plugin and of the filters that are named.
_agent_words() {
    local cur="$2" prev="$3" key="" before="" word plugin="" known=""
    local -a files options=(@OPTIONS@)

    if [[ " @COMMANDS@ " == *" ${COMP_WORDS[1]} "* ]] && ((COMP_CWORD > 1)); then
        _agent "$@"
        return
    fi
    if ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[COMP_CWORD]} == "=" ]]; then
        key="${COMP_WORDS[COMP_CWORD - 1]}" cur=""
    elif ((COMP_CWORD > 2)) && [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then
        key="${COMP_WORDS[COMP_CWORD - 2]}"
    fi
    [[ $key == -* ]] && prev="$key"
    if [[ $cur != -* && " ${options[*]} " == *" $prev "* ]]; then
        _agent "$1" "$cur" "$prev"
        return
    fi

    for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
        [[ $word == "=" ]] && continue
        if [[ $before == --filter ]]; then
            known+=" $(_agent_parameters "filter $word")"
        elif [[ -z $plugin && " ${options[*]} " != *" $before "* && " @PLUGINS@ " == *" $word "* ]]
        then
            plugin="$word"
            known+=" $(_agent_parameters "plugin $word")"
        fi
        before="$word"
    done
    if [[ -z $plugin || ( -z $key && $cur == -* ) ]]; then
        _agent "$1" "$cur" "$prev"
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$known" -- "${key:+$key=}$cur")
    [[ -n $key ]] && COMPREPLY=("${COMPREPLY[@]#"$key="}")
    if [[ -z $key && " @OF_FILES@ " == *" $plugin "* ]]; then
        mapfile -t files < <(compgen -f -- "$cur")
        if ((${#files[@]} > 0)); then
            # It also escapes '=', so not for keys alone.
            compopt -o filenames
            COMPREPLY+=("${files[@]}")
        fi
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}


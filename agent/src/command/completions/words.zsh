# The parameters of the plugin and of the filters that are named, and files.
_agent_words() {
    local word before known plugin
    for word in "${(@)words[2,CURRENT-1]}"; do
        if [[ $before == --filter ]]; then
            known+=" $(_agent_parameters "filter $word")"
        elif [[ $word == --filter=* ]]; then
            known+=" $(_agent_parameters "filter ${word#--filter=}")"
        elif [[ -z $plugin ]]; then
            plugin="$(_agent_parameters "plugin $word")"
        fi
        before=$word
    done
    local -a all=(${=known} ${=plugin})
    local -a open=(${(M)all:#*=}) whole=(${all:#*=})
    compadd -S '' -a open
    compadd -a whole
    compset -P '*='
    _files
}


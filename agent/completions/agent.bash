_agent() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="agent"
                ;;
            agent,completions)
                cmd="agent__subcmd__completions"
                ;;
            agent,doctor)
                cmd="agent__subcmd__doctor"
                ;;
            agent,libvirt)
                cmd="agent__subcmd__libvirt"
                ;;
            agent,man)
                cmd="agent__subcmd__man"
                ;;
            agent,qemu)
                cmd="agent__subcmd__qemu"
                ;;
            agent,supervise)
                cmd="agent__subcmd__supervise"
                ;;
            agent__subcmd__libvirt,attach)
                cmd="agent__subcmd__libvirt__subcmd__attach"
                ;;
            agent__subcmd__libvirt,cid)
                cmd="agent__subcmd__libvirt__subcmd__cid"
                ;;
            agent__subcmd__libvirt,edit)
                cmd="agent__subcmd__libvirt__subcmd__edit"
                ;;
            agent__subcmd__libvirt,xml)
                cmd="agent__subcmd__libvirt__subcmd__xml"
                ;;
            agent__subcmd__qemu,args)
                cmd="agent__subcmd__qemu__subcmd__args"
                ;;
            agent__subcmd__qemu,attach)
                cmd="agent__subcmd__qemu__subcmd__attach"
                ;;
            agent__subcmd__qemu,detach)
                cmd="agent__subcmd__qemu__subcmd__detach"
                ;;
            agent__subcmd__qemu,list)
                cmd="agent__subcmd__qemu__subcmd__list"
                ;;
            agent__subcmd__qemu,watch)
                cmd="agent__subcmd__qemu__subcmd__watch"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        agent)
            opts="-p -i -4 -6 -U -s -r -e -t -f -u -g -P -v -n -h -V --vsock --port --ipaddr --ipv4-only --ipv6-only --unix --listen --single --keepalive --readonly --allow --allow-cid --access-file --limit --limit-per-cid --limit-per-tenant --memory-per-connection --memory-per-tenant --memory-total --memory-max --qmp --qmp-cid --exportname --threads --io --timeout --shutdown-timeout --tls-certificates --tls-verify-peer --tls-psk --foreground --background --run --exit-with-parent --user --group --swap --selinux-label --pidfile --print-uri --verbose --no-sr --no-mc --mask-handshake --newstyle --help --version --dump-config --dump-plugin --short-options --long-options --filter --tls --log data file full memory nbd null ondemand ones pattern random split tmpdisk zero completions doctor libvirt man qemu supervise"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -p)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --ipaddr)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -i)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --unix)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -U)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --listen)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --allow)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --allow-cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --access-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --limit)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --limit-per-cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --limit-per-tenant)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory-per-connection)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory-per-tenant)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory-total)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory-max)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --qmp)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --qmp-cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exportname)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -e)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --threads)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -t)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --io)
                    COMPREPLY=($(compgen -W "auto uring threads" -- "${cur}"))
                    return 0
                    ;;
                --timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --shutdown-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tls-certificates)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --tls-psk)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --run)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --user)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -u)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --group)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -g)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --selinux-label)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pidfile)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -P)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --mask-handshake)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --filter)
                    COMPREPLY=($(compgen -W "blocksize-policy cow delay error exitlast exitwhen exportname fua ip limit log multi-conn nocache noextents nozero offset partition pause protect rate readonly stats truncate" -- "${cur}"))
                    return 0
                    ;;
                --tls)
                    COMPREPLY=($(compgen -W "off on require" -- "${cur}"))
                    return 0
                    ;;
                --log)
                    COMPREPLY=($(compgen -W "stderr json syslog journald null" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__completions)
            opts="--dir bash elvish fish powershell zsh"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --dir)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__doctor)
            opts="-p --json --port --fix --yes"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -p)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__libvirt)
            opts="xml edit attach cid"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__libvirt__subcmd__attach)
            opts="-c --cid --model --live --config --connect --timeout --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --model)
                    COMPREPLY=($(compgen -W "virtio virtio-transitional virtio-non-transitional" -- "${cur}"))
                    return 0
                    ;;
                --connect)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -c)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__libvirt__subcmd__cid)
            opts="-c --config --connect --timeout --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --connect)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                -c)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__libvirt__subcmd__edit)
            opts="--cid --replace --model --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --model)
                    COMPREPLY=($(compgen -W "virtio virtio-transitional virtio-non-transitional" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__libvirt__subcmd__xml)
            opts="--cid --model --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --model)
                    COMPREPLY=($(compgen -W "virtio virtio-transitional virtio-non-transitional" -- "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__man)
            opts="--dir completions doctor libvirt man qemu supervise"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --dir)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu)
            opts="attach detach list args watch"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu__subcmd__args)
            opts="--cid --machine --bus --id --vhost-user --memory --numa --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --machine)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --bus)
                    COMPREPLY=($(compgen -W "pci ccw mmio" -- "${cur}"))
                    return 0
                    ;;
                --id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --vhost-user)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --memory)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu__subcmd__attach)
            opts="--qmp --cid --id --port --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --qmp)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --cid)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --port)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu__subcmd__detach)
            opts="--qmp --id --timeout --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --qmp)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --id)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu__subcmd__list)
            opts="--qmp --json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --qmp)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__qemu__subcmd__watch)
            opts="--qmp"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --qmp)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        agent__subcmd__supervise)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _agent_words -o nosort -o bashdefault -o default agent
else
    complete -F _agent_words -o bashdefault -o default agent
fi

# What clap's completions do not know: --option=value, which readline splits at the '=', and the
# parameters of the plugin and of the filters that are named.
_agent_words() {
    local cur="$2" prev="$3" key="" before="" word plugin="" known=""
    local -a files options=(-p --port -i --ipaddr -U --unix --listen --allow --allow-cid --access-file --limit --limit-per-cid --limit-per-tenant --memory-per-connection --memory-per-tenant --memory-total --memory-max --qmp --qmp-cid --filter -e --exportname -t --threads --io --timeout --shutdown-timeout --tls --tls-certificates --tls-psk --run -u --user -g --group --selinux-label -P --pidfile --log --mask-handshake)

    if [[ " completions doctor libvirt man qemu supervise " == *" ${COMP_WORDS[1]} "* ]] && ((COMP_CWORD > 1)); then
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
        elif [[ -z $plugin && " ${options[*]} " != *" $before "* && " data file full memory nbd null ondemand ones pattern random split tmpdisk zero " == *" $word "* ]]
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
    if [[ -z $key && " file split " == *" $plugin "* ]]; then
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

# KEY= alone, or KEY=VALUE once for each value that there is.
_agent_parameters() {
    case "$1" in
        "plugin data") echo "data= base64= raw= size= allocator=sparse VAR=" ;;
        "plugin file") echo "file= dir= cache=default cache=none fadvise=normal fadvise=random fadvise=sequential" ;;
        "plugin full") echo "size=" ;;
        "plugin memory") echo "size= allocator=sparse" ;;
        "plugin nbd") echo "uri= socket= hostname= port= vsock= socket-fd= command= arg= export= dynamic-export= retry= shared= tls=off tls=on tls=require tls-certificates= tls-verify= tls-hostname= tls-username= tls-psk=" ;;
        "plugin null") echo "size=" ;;
        "plugin ondemand") echo "size= dir= wait= type= label= command= max-total= VAR=" ;;
        "plugin ones") echo "size= byte=" ;;
        "plugin pattern") echo "size=" ;;
        "plugin random") echo "size= seed=" ;;
        "plugin split") echo "file=" ;;
        "plugin tmpdisk") echo "size= type= label= command= max-total= VAR=" ;;
        "filter blocksize-policy") echo "blocksize-minimum= blocksize-preferred= blocksize-maximum= blocksize-error-policy=allow blocksize-error-policy=error blocksize-error-policy=strict-error blocksize-write-disconnect=" ;;
        "filter cow") echo "cow-block-size= cow-on-cache= cow-on-read=" ;;
        "filter delay") echo "rdelay= wdelay= delay-read= delay-write= delay-zero= delay-trim= delay-extents= delay-cache= delay-flush= delay-fast-zero=on delay-fast-zero=off delay-open= delay-close=" ;;
        "filter error") echo "error= error-rate= error-file= error-pread= error-pread-rate= error-pread-file= error-pwrite= error-pwrite-rate= error-pwrite-file= error-trim= error-trim-rate= error-trim-file= error-zero= error-zero-rate= error-zero-file= error-extents= error-extents-rate= error-extents-file= error-cache= error-cache-rate= error-cache-file= error-flush= error-flush-rate= error-flush-file=" ;;
        "filter exitwhen") echo "exit-when-file-created= exit-when-file-deleted= exit-when-pipe-closed= exit-when-process-exits= exit-when-script= exit-when-poll=" ;;
        "filter exportname") echo "default-export= exportname-list=keep exportname-list=error exportname-list=empty exportname-list=defaultonly exportname-list=explicit exportname= exportname-strict= exportdesc=" ;;
        "filter fua") echo "fuamode=none fuamode=emulate fuamode=native fuamode=force fuamode=pass fuamode=discard" ;;
        "filter ip") echo "allow= deny=" ;;
        "filter limit") echo "limit= limit-per-cid=" ;;
        "filter log") echo "logfile= logappend= logscript= logformat=text logformat=json" ;;
        "filter multi-conn") echo "multi-conn-mode=auto multi-conn-mode=emulate multi-conn-mode=plugin multi-conn-mode=disable multi-conn-mode=unsafe multi-conn-track-dirty=fast multi-conn-track-dirty=connection multi-conn-track-dirty=off multi-conn-exportname=" ;;
        "filter nocache") echo "cachemode=none cachemode=emulate cachemode=nop" ;;
        "filter nozero") echo "zeromode=none zeromode=emulate zeromode=notrim zeromode=plugin fastzeromode=none fastzeromode=slow fastzeromode=ignore fastzeromode=default" ;;
        "filter offset") echo "offset= range=" ;;
        "filter partition") echo "partition= partition-sectorsize=" ;;
        "filter pause") echo "pause-control=" ;;
        "filter protect") echo "protect=" ;;
        "filter rate") echo "rate= connection-rate= rate-file= connection-rate-file= burstiness=" ;;
        "filter readonly") echo "readonly-file=" ;;
        "filter stats") echo "statsfile= statsappend= statsthreshold=" ;;
        "filter truncate") echo "truncate= round-up= round-down=" ;;
    esac
}

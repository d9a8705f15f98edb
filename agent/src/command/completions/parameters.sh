# KEY= alone, or KEY=VALUE once for each value that there is.
_agent_parameters() {
    case "$1" in
@PARAMETERS@    esac
}

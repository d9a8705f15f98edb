
function __fish_agent_serves
    not __fish_agent_using_subcommand @COMMANDS@
end

function __fish_agent_has_filter
    set -l cmd (commandline -opc)
    contains -- $argv[1] $cmd; or contains -- --filter=$argv[1] $cmd
end


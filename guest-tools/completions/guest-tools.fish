# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_guest_tools_global_optspecs
    string join \n timeout= h/help V/version
end

function __fish_guest_tools_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_guest_tools_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_guest_tools_using_subcommand
    set -l cmd (__fish_guest_tools_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c guest-tools -n "__fish_guest_tools_needs_command" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_needs_command" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -s V -l version -d 'Print version'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "probe" -d 'Find out why vsock does not work here, and how to fix it'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "connect" -d 'Connect standard input and output to a vsock port'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "info" -d 'Tell what an export is and what it can do'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "list" -d 'List the exports of a server, each as `info` tells it'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "map" -d 'Show which parts of an export are data and which are holes'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "read" -d 'Copy bytes of an export to standard output or a file'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "write" -d 'Copy standard input, a file or a pattern to an export, and flush'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "zero" -d 'Make a range read as zeroes'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "trim" -d 'Tell the server that a range is not needed any more'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "cache" -d 'Ask the server to have a range at hand'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "dump" -d 'Print what an export holds in hexadecimal'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "test" -d 'Find out whether the disk keeps what it is given'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "bench" -d 'Measure how fast the disk is from here'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "copy" -d 'Copy a disk between addresses, files, block devices and pipes, with its holes'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "attach" -d 'Make a block device of an export, which survives its server'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "detach" -d 'Flush a block device and let it go'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "status" -d 'Tell which block devices are attached, and how they are'
complete -c guest-tools -n "__fish_guest_tools_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand probe" -l wait -d 'Go on trying so long until a connection works, such as 500ms, 30s or 2m' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand probe" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand probe" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand probe" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand connect" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand connect" -l json -d 'At the end, print on standard error how much went either way'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand connect" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l can -d 'Print nothing; exit with 0 if it can, with 2 if it cannot: connect, read, write, flush, fua, trim, zero, fast-zero, cache, df, multi-conn, structured-reply, extended-headers' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l is -d 'The same for what it is: read-only, rotational, tls' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l has -d 'The same, as newer nbdinfo has it' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l size -d 'Print the size alone, in bytes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand info" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand list" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand list" -l names -d 'Print names alone, one a line'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand list" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand list" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l length -d 'How many bytes; default: up to the end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l context -d 'Which map' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l totals -d 'Print how many bytes there are of each type'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand map" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -l length -d 'How many bytes; default: up to the end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -s o -l output -l out -d 'Where to put them; default: standard output' -r -F
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -l verify-pattern -d 'Put them nowhere; fail unless each is what `write --pattern` writes there'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -l json -d 'Print JSON on standard output, which the bytes must not use'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand read" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -s i -l input -l in -d 'Where the bytes come from; default: standard input' -r -F
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l length -d 'How many bytes of the pattern' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l pattern -d 'Write a pattern instead: each aligned 8 bytes are their own offset, big-endian'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l fua -d 'Make each piece durable before the server answers it (FUA)'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l no-flush -d 'Leave out the flush at the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand write" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l length -d 'How many bytes' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l all -d 'Everything from the offset to the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l no-hole -d 'Keep the space: no holes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l fast -d 'Fail rather than take as long as a write would'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l fua -d 'Make each piece durable before the server answers it (FUA)'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l no-flush -d 'Leave out the flush at the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand zero" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l length -d 'How many bytes' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l all -d 'Everything from the offset to the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l fua -d 'Make each piece durable before the server answers it (FUA)'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l no-flush -d 'Leave out the flush at the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand trim" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand cache" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand cache" -l length -d 'How many bytes; default: up to the end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand cache" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand cache" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand cache" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand dump" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand dump" -l length -d 'How many bytes; default: up to the end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand dump" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand dump" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand dump" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l offset -d 'Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l length -d 'How many bytes; default: up to the end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l most -d 'Most that is tested if no length is said' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l connections -d 'Connections at the same time, where the server has multi-conn' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l requests -d 'Requests under way on each' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l seed -d 'What the random changes begin with; the same seed makes the same requests' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l destroy -d 'Yes, what is on the disk may be lost'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l read-only -d 'Change nothing: check what the last run wrote'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand test" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l mode -d 'What the requests are' -r -f -a "read\t'One after the other, each connection from a place of its own'
randread\t''
write\t''
randwrite\t''
mixed\t'Two random reads for one random write'
zero\t''"
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l size -d 'Bytes of a request' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l depth -d 'Requests under way on each connection' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l connections -d 'Connections at the same time' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l time -d 'For how long each case is counted' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l warm-up -d 'For how long each case runs before' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l html -d 'Draw a page of it all, which needs nothing but itself' -r -F
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l compare -d 'What an earlier run printed with --json, to stand beside this one on the page' -r -F
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l destroy -d 'Yes, what is on the disk may be lost; for the modes that write'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s C -l connections -d 'Connections to each server, where both allow several; default: 4, or the processors if fewer' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s R -l requests -d 'Requests under way on each connection; default: 64, or those that are 4 MiB together' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l request-size -d 'Bytes of one request, at most; up to 32M' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s S -l sparse -d 'Make blocks of this size that are all zeroes holes; 0 to look for none; default: 4096, or what the destination prefers' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s p -l progress -d 'How to show progress: auto, bar, lines, none, or a descriptor that is to get N/100' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l no-extents -d 'Do not ask the source for its holes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l allocated -d 'Take up space on the destination for zeroes too'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l destination-is-zero -l target-is-zero -d 'The destination is known to be all zeroes: write none'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l flush -d 'Make all of it durable at the end; so it is without this word too'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l no-flush -d 'Leave out the flush at the end'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l verify -d 'Read both sides again and compare them'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s q -l quiet -d 'Show nothing but errors'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -l json -d 'Print JSON on standard output, which the bytes must not use'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand copy" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l device -d 'The device, /dev/ublkbN or /dev/nbdN, which says the driver; default: the first that is free' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l dead-timeout -d 'How long requests wait for a server that is gone before they fail; or \'never\'' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l connections -d 'Connections; default: one a processor, up to 4, where the server allows more than one' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l wait -d 'How long to wait for the server at the start' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l keep -d 'How much of what is acknowledged and not flushed is kept before a flush is asked for' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l kernel-fd -d 'Sockets that this process has open, in place of the kernel' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l kernel-facts -d 'Where a relay for those sockets keeps what the next one has to know' -r -F
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l ublk -d 'Only by the kernel\'s ublk driver; default: by it where it is there, and else by nbd'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l read-only -d 'Make a device that cannot be written to'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l background -d 'Return when the device is there'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l direct -d 'Give the kernel the connection itself: less work, but the device ends with its server; kernels since late 2025 refuse this for vsock, and then there is a relay all the same'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand attach" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand detach" -l timeout -d 'How long the relay may take to end' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand detach" -l force -d 'Detach without a flush, even while it is in use; unwritten data is lost'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand detach" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand detach" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand status" -l timeout -d 'How long a server may owe an answer and say next to nothing before it counts as gone, such as 500ms or 5m; 0s: for ever' -r
complete -c guest-tools -n "__fish_guest_tools_using_subcommand status" -l json -d 'Print JSON'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand status" -s h -l help -d 'Print help'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "probe" -d 'Find out why vsock does not work here, and how to fix it'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "connect" -d 'Connect standard input and output to a vsock port'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "info" -d 'Tell what an export is and what it can do'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "list" -d 'List the exports of a server, each as `info` tells it'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "map" -d 'Show which parts of an export are data and which are holes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "read" -d 'Copy bytes of an export to standard output or a file'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "write" -d 'Copy standard input, a file or a pattern to an export, and flush'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "zero" -d 'Make a range read as zeroes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "trim" -d 'Tell the server that a range is not needed any more'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "cache" -d 'Ask the server to have a range at hand'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "dump" -d 'Print what an export holds in hexadecimal'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "test" -d 'Find out whether the disk keeps what it is given'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "bench" -d 'Measure how fast the disk is from here'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "copy" -d 'Copy a disk between addresses, files, block devices and pipes, with its holes'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "attach" -d 'Make a block device of an export, which survives its server'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "detach" -d 'Flush a block device and let it go'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "status" -d 'Tell which block devices are attached, and how they are'
complete -c guest-tools -n "__fish_guest_tools_using_subcommand help; and not __fish_seen_subcommand_from probe connect info list map read write zero trim cache dump test bench copy attach detach status help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'

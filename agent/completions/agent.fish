# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_agent_global_optspecs
    string join \n vsock p/port= i/ipaddr= 4/ipv4-only 6/ipv6-only U/unix= listen= s/single keepalive r/readonly allow= allow-cid= access-file= limit= limit-per-cid= qmp= qmp-cid= e/exportname= t/threads= timeout= shutdown-timeout= tls= tls-certificates= tls-verify-peer tls-psk= f/foreground background run= exit-with-parent u/user= g/group= swap selinux-label= P/pidfile= print-uri v/verbose log= no-sr no-mc mask-handshake= n/newstyle h/help V/version dump-config dump-plugin short-options long-options filter=
end

function __fish_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_agent_using_subcommand
    set -l cmd (__fish_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c agent -n "__fish_agent_needs_command" -s p -l port -d 'Port: 16 bits with TCP, 32 bits with --vsock; TCP port 0 is any free one [default: 10809]' -r
complete -c agent -n "__fish_agent_needs_command" -s i -l ipaddr -d 'TCP address or host name to listen on [default: all addresses]' -r
complete -c agent -n "__fish_agent_needs_command" -s U -l unix -d 'Unix socket to listen on; \'-\' makes a private one. It is removed at exit' -r -F
complete -c agent -n "__fish_agent_needs_command" -l listen -d 'Another place to listen on, in addition to those above: vsock:PORT, vsock:CID:PORT, tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH. May be given again' -r
complete -c agent -n "__fish_agent_needs_command" -l allow -d 'Let these in and refuse all whom neither this, --allow-cid nor --access-file names: vsock-guest[:CIDS], vsock-local, vsock-cid:N, uid:N, gid:N, pid:N, 10.0.0.0/8, ::1, anyunix and all else that --filter=ip knows; numbers may be ranges (3-9). May be given again' -r
complete -c agent -n "__fish_agent_needs_command" -l allow-cid -d 'Let the guests with these CIDs in, such as 3,5-9; in addition to --allow. May be given again' -r
complete -c agent -n "__fish_agent_needs_command" -l access-file -d 'Let in whom this file names, in addition to --allow and --allow-cid. A line is a list of rules with \'allow\' or \'deny\' in front (allow, if neither); the first rule that names a peer decides. # starts a comment. HUP reads it again; open connections go on' -r -F
complete -c agent -n "__fish_agent_needs_command" -l limit -d 'Most connections at once, handshakes included; 0 is no limit' -r
complete -c agent -n "__fish_agent_needs_command" -l limit-per-cid -d 'Most connections at once from one CID; 0 is no limit' -r
complete -c agent -n "__fish_agent_needs_command" -l qmp -d 'Let the guest of this QEMU in as long as the machine lives, and over vsock nobody else: SOCKET is its -qmp. A machine without a vsock device gets one. May be given again' -r -F
complete -c agent -n "__fish_agent_needs_command" -l qmp-cid -d 'The CID of a machine that gets its vsock device from --qmp: a number, a range, or auto' -r
complete -c agent -n "__fish_agent_needs_command" -s e -l exportname -d 'Export name in the URIs of --print-uri and --run; changes nothing else, as with nbdkit' -r
complete -c agent -n "__fish_agent_needs_command" -s t -l threads -d 'Requests of one connection that may wait for the disk at once; 0 is the default [default: 16]' -r
complete -c agent -n "__fish_agent_needs_command" -l timeout -d 'Drop a client that has not finished the handshake by then: seconds, or 500ms, 2m' -r
complete -c agent -n "__fish_agent_needs_command" -l shutdown-timeout -d 'At TERM and INT, close connections that are not done by then' -r
complete -c agent -n "__fish_agent_needs_command" -l tls -d 'TLS: off, on (the client chooses) or require (nothing without it) [default: on where there are certificates, off elsewhere]' -r
complete -c agent -n "__fish_agent_needs_command" -l tls-certificates -d 'Where ca-cert.pem, server-cert.pem, server-key.pem and perhaps ca-crl.pem are [default: /etc/pki/nbdkit for root, else ~/.pki/nbdkit or ~/.config/pki/nbdkit]' -r -F
complete -c agent -n "__fish_agent_needs_command" -l tls-psk -d 'Keys shared with clients, a USER:HEX a line as psktool(1) writes them, in place of certificates. Needs an agent that was built with the feature \'psk\'' -r -F
complete -c agent -n "__fish_agent_needs_command" -l run -d 'Run a command with the shell, which finds $uri, $port, $unixsocket and $exportname; end with it and with its exit status. Listens on a private Unix socket unless told otherwise' -r
complete -c agent -n "__fish_agent_needs_command" -s u -l user -d 'Go on as this user once everything is open: a name or a number' -r
complete -c agent -n "__fish_agent_needs_command" -s g -l group -d 'Go on as this group once everything is open [default: that of --user]' -r
complete -c agent -n "__fish_agent_needs_command" -l selinux-label -d 'SELinux label of the listening sockets' -r
complete -c agent -n "__fish_agent_needs_command" -s P -l pidfile -d 'Write the process id to PIDFILE when ready. It is removed at exit' -r -F
complete -c agent -n "__fish_agent_needs_command" -l log -d 'Where the log goes: stderr, json (on stderr), syslog, journald, /PATH (opened again at HUP) or null; stderr by default, and syslog in the background' -r
complete -c agent -n "__fish_agent_needs_command" -l mask-handshake -d 'Offer these handshake flags only: 1 is fixed newstyle, 2 no zeroes' -r
complete -c agent -n "__fish_agent_needs_command" -l filter -d 'Put a layer around the disk; the first one given is nearest to the client' -r -f -a "blocksize-policy\t''
cow\t''
delay\t''
error\t''
exitlast\t''
exitwhen\t''
exportname\t''
fua\t''
ip\t''
limit\t''
log\t''
multi-conn\t''
nocache\t''
noextents\t''
nozero\t''
offset\t''
partition\t''
pause\t''
protect\t''
rate\t''
readonly\t''
stats\t''
truncate\t''"
complete -c agent -n "__fish_agent_needs_command" -l vsock -d 'Listen on AF_VSOCK instead of TCP: for the guests of this machine'
complete -c agent -n "__fish_agent_needs_command" -s 4 -l ipv4-only -d 'IPv4 addresses only'
complete -c agent -n "__fish_agent_needs_command" -s 6 -l ipv6-only -d 'IPv6 addresses only'
complete -c agent -n "__fish_agent_needs_command" -s s -l single -d 'Serve one client on stdin and stdout, for inetd and xinetd, and end with it'
complete -c agent -n "__fish_agent_needs_command" -l keepalive -d 'Find out when a TCP peer is gone (SO_KEEPALIVE)'
complete -c agent -n "__fish_agent_needs_command" -s r -l readonly -d 'Refuse writes'
complete -c agent -n "__fish_agent_needs_command" -l tls-verify-peer -d 'Take only clients with a certificate of the CA in ca-cert.pem that ca-crl.pem does not revoke'
complete -c agent -n "__fish_agent_needs_command" -s f -l foreground -d 'Stay in the foreground: so unless --background is given, or the program is called as nbdkit'
complete -c agent -n "__fish_agent_needs_command" -l background -d 'Go into the background once ready; exits with 0 only then'
complete -c agent -n "__fish_agent_needs_command" -l exit-with-parent -d 'End when the process that started this one ends'
complete -c agent -n "__fish_agent_needs_command" -l swap -d 'Stay in memory: for a disk that this machine swaps to'
complete -c agent -n "__fish_agent_needs_command" -l print-uri -d 'Print the URI of each listener on stdout when ready; vsock as a guest would name it'
complete -c agent -n "__fish_agent_needs_command" -s v -l verbose -d 'Say more on stderr'
complete -c agent -n "__fish_agent_needs_command" -l no-sr -d 'Offer no structured replies, and what needs them'
complete -c agent -n "__fish_agent_needs_command" -l no-mc -d 'Offer no metadata contexts, and so no block status'
complete -c agent -n "__fish_agent_needs_command" -s n -l newstyle -d 'The newstyle protocol: always so'
complete -c agent -n "__fish_agent_needs_command" -s h -l help -d 'Help; behind a plugin and filters, also about these and their parameters'
complete -c agent -n "__fish_agent_needs_command" -s V -l version -d 'The version; behind a plugin and filters, also theirs'
complete -c agent -n "__fish_agent_needs_command" -l dump-config -d 'What was decided when this program was built, as KEY=VALUE'
complete -c agent -n "__fish_agent_needs_command" -l dump-plugin -d 'What the plugin is, as KEY=VALUE'
complete -c agent -n "__fish_agent_needs_command" -l short-options -d 'The options of one letter, one a line'
complete -c agent -n "__fish_agent_needs_command" -l long-options -d 'The long options, one a line'
complete -c agent -n "__fish_agent_needs_command" -a "completions" -d 'Prints a shell\'s completions of this command line'
complete -c agent -n "__fish_agent_needs_command" -a "man" -d 'Prints the pages of the manual'
complete -c agent -n "__fish_agent_needs_command" -a "qemu" -d 'Gives virtual machines of QEMU their vsock devices, by QMP'
complete -c agent -n "__fish_agent_using_subcommand completions" -l dir -d 'Write those of bash, fish and zsh into this directory' -r -F
complete -c agent -n "__fish_agent_using_subcommand man" -l dir -d 'Write every page into this directory' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "attach" -d 'Puts a vsock device into a machine that runs'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "detach" -d 'Takes a vsock device out of a machine, and waits until it is out'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "list" -d 'Shows every vsock device of a machine'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "args" -d 'Prints the part of QEMU\'s command line for a machine\'s vsock device'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "watch" -d 'Prints the events of a machine as lines of JSON, to its end'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l qmp -d 'The Unix socket of QEMU\'s -qmp' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l cid -d 'The guest\'s CID, or a range from which one is chosen at random' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l id -d 'QEMU\'s name of the device' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l port -d 'The agent\'s port, for the guest\'s command' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from detach" -l qmp -d 'The Unix socket of QEMU\'s -qmp' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from detach" -l id -d 'QEMU\'s name of the device, or its path [default: the only one there is]' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from detach" -l timeout -d 'How long the guest may take' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from detach" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from list" -l qmp -d 'The Unix socket of QEMU\'s -qmp' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from list" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l cid -d 'The guest\'s CID, or a range from which one is chosen at random' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l machine -d 'The machine\'s type, QEMU\'s -machine' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l bus -d 'Where the device goes [default: what that machine has]' -r -f -a "pci\t''
ccw\t''
mmio\t''"
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l id -d 'QEMU\'s name of the device' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l vhost-user -d 'The socket of the process that carries the packets, instead of the kernel' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l memory -d 'The guest\'s memory, which that process shares' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l numa -d 'Give the memory to a NUMA node, for QEMU before 5.0'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from args" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from watch" -l qmp -d 'The Unix socket of QEMU\'s -qmp' -r -F

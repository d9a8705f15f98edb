# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_agent_global_optspecs
    string join \n vsock p/port= i/ipaddr= 4/ipv4-only 6/ipv6-only U/unix= listen= s/single keepalive r/readonly allow= allow-cid= access-file= limit= limit-per-cid= limit-per-tenant= memory-per-connection= memory-per-tenant= memory-total= memory-max= qmp= qmp-cid= e/exportname= t/threads= io= timeout= shutdown-timeout= tls-certificates= tls-verify-peer tls-psk= f/foreground background run= exit-with-parent u/user= g/group= swap selinux-label= P/pidfile= print-uri v/verbose no-sr no-mc mask-handshake= n/newstyle h/help V/version dump-config dump-plugin short-options long-options filter= tls= log=
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

complete -c agent -n "__fish_agent_serves" -s p -l port -d 'Port: 16 bits with TCP, 32 bits with --vsock; TCP port 0 is any free one [default: 10809]' -r
complete -c agent -n "__fish_agent_serves" -s i -l ipaddr -d 'TCP address or host name to listen on [default: all addresses]' -r
complete -c agent -n "__fish_agent_serves" -s U -l unix -d 'Unix socket to listen on; \'-\' makes a private one. It is removed at exit' -r -F
complete -c agent -n "__fish_agent_serves" -l listen -d 'Another place to listen on, in addition to those above: vsock:PORT, vsock:CID:PORT, tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, vhost-user:PATH[,cid=N][,port=P] (the vsock device of QEMU\'s guest ends here: no kernel module) or hybrid:PATH[,port=P] (Firecracker, Cloud Hypervisor); these two take mode=0660, owner=USER and group=GROUP of their socket too. May be given again' -r
complete -c agent -n "__fish_agent_serves" -l allow -d 'Allow these clients, and refuse all that no --allow, --allow-cid or --access-file names: vsock-guest[:CIDS], vsock-local, vsock-cid:N, uid:N, gid:N, pid:N, 10.0.0.0/8, ::1, anyunix and all else that --filter=ip knows; numbers may be ranges (3-9). May be given again' -r
complete -c agent -n "__fish_agent_serves" -l allow-cid -d 'Allow the guests with these CIDs, such as 3,5-9, in addition to --allow. May be given again' -r
complete -c agent -n "__fish_agent_serves" -l access-file -d 'Allow the clients that this file names, in addition to --allow and --allow-cid. A line is a list of rules after \'allow\' or \'deny\' (allow, if neither); the first rule that names a client decides. # starts a comment. HUP reads the file again, and closes connections that it no longer allows when their requests are finished' -r -F
complete -c agent -n "__fish_agent_serves" -l limit -d 'Most connections at once, handshakes included; 0 is no limit' -r
complete -c agent -n "__fish_agent_serves" -l limit-per-cid -d 'Most connections at once from one CID; 0 is no limit' -r
complete -c agent -n "__fish_agent_serves" -l limit-per-tenant -d 'Most connections at once of one tenant, handshakes included: of a machine, a CID, a user over Unix sockets, an IPv4 address or an IPv6 /64 network; 0 is no limit of its own. In all there are as many as a fifth of the hard limit of open files, less some for the agent; one tenant has at most as many of them as it leaves free' -r
complete -c agent -n "__fish_agent_serves" -l memory-per-connection -d 'Most memory that one connection holds in requests and replies, at least 34M' -r
complete -c agent -n "__fish_agent_serves" -l memory-per-tenant -d 'Most memory that all connections of one tenant hold: of a machine, a CID, a user over Unix sockets, or an address (of IPv6, a /64 network)' -r
complete -c agent -n "__fish_agent_serves" -l memory-total -d 'Most memory that all connections hold. One tenant may have as much as is still free [default: a quarter of the memory]' -r
complete -c agent -n "__fish_agent_serves" -l memory-max -d 'Most memory that the disks of the plugins memory and data and the maps of the filter cow take together; beyond it writes get ENOSPC [default: half of the memory]' -r
complete -c agent -n "__fish_agent_serves" -l qmp -d 'Allow the guest of this QEMU while the machine lives, and no other client over vsock. SOCKET is a -qmp socket of it that no other program uses meanwhile. A machine without a vsock device gets one. May be given again' -r -F
complete -c agent -n "__fish_agent_serves" -l qmp-cid -d 'The CID of a machine that gets its vsock device from --qmp: a number, a range, or auto' -r
complete -c agent -n "__fish_agent_serves" -s e -l exportname -d 'Export name in the URIs of --print-uri and --run; changes nothing else, as with nbdkit' -r
complete -c agent -n "__fish_agent_serves" -s t -l threads -d 'Requests of one connection that may wait for the disk at once; 0: the agent chooses' -r
complete -c agent -n "__fish_agent_serves" -l io -d 'How files are read and written: by io_uring where the kernel allows it (auto), by io_uring only (uring), or by threads that wait' -r -f -a "auto\t''
uring\t''
threads\t''"
complete -c agent -n "__fish_agent_serves" -l timeout -d 'Disconnect a client whose handshake takes longer: seconds, or 500ms, 2m' -r
complete -c agent -n "__fish_agent_serves" -l shutdown-timeout -d 'After TERM and INT, close connections whose requests take longer' -r
complete -c agent -n "__fish_agent_serves" -l tls-certificates -d 'Where ca-cert.pem, server-cert.pem, server-key.pem and perhaps ca-crl.pem are [default: /etc/pki/nbdkit for root, else ~/.pki/nbdkit or ~/.config/pki/nbdkit]' -r -F
complete -c agent -n "__fish_agent_serves" -l tls-psk -d 'Keys shared with clients, a USER:HEX a line as psktool(1) writes them, in place of certificates. Needs an agent that was built with the feature \'psk\'' -r -F
complete -c agent -n "__fish_agent_serves" -l run -d 'Run a shell command with the variables $uri, $port, $unixsocket and $exportname, and exit with its status when it ends. Without an address the agent listens on a private Unix socket' -r
complete -c agent -n "__fish_agent_serves" -s u -l user -d 'Change to this user after everything is open: a name or a number' -r
complete -c agent -n "__fish_agent_serves" -s g -l group -d 'Change to this group after everything is open [default: that of --user]' -r
complete -c agent -n "__fish_agent_serves" -l selinux-label -d 'SELinux label of the listening sockets' -r
complete -c agent -n "__fish_agent_serves" -s P -l pidfile -d 'Write the process id to PIDFILE when ready. It is removed at exit' -r -F
complete -c agent -n "__fish_agent_serves" -l mask-handshake -d 'Offer these handshake flags only: 1 is fixed newstyle, 2 no zeroes' -r
complete -c agent -n "__fish_agent_serves" -l filter -d 'Put a layer around the disk; the first one given is nearest to the client' -r -f -a "blocksize-policy\t''
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
complete -c agent -n "__fish_agent_serves" -l tls -d 'TLS: off, on (the client chooses) or require (nothing without it) [default: require with --tls-verify-peer, else on where there are certificates, off elsewhere]' -r -f -a "off\t''
on\t''
require\t''"
complete -c agent -n "__fish_agent_serves" -l log -d 'Where the log goes: stderr, json (on stderr), syslog, journald, /PATH (opened again at HUP) or null; stderr by default, and syslog in the background' -r -f -a "stderr\t''
json\t''
syslog\t''
journald\t''
null\t''"
complete -c agent -n "__fish_agent_serves" -l vsock -d 'Listen on AF_VSOCK instead of TCP: for the guests of this machine'
complete -c agent -n "__fish_agent_serves" -s 4 -l ipv4-only -d 'IPv4 addresses only'
complete -c agent -n "__fish_agent_serves" -s 6 -l ipv6-only -d 'IPv6 addresses only'
complete -c agent -n "__fish_agent_serves" -s s -l single -d 'Serve one client on stdin and stdout, for inetd and xinetd, and end with it'
complete -c agent -n "__fish_agent_serves" -l keepalive -d 'Find out when a TCP peer is gone (SO_KEEPALIVE)'
complete -c agent -n "__fish_agent_serves" -s r -l readonly -d 'Refuse writes'
complete -c agent -n "__fish_agent_serves" -l tls-verify-peer -d 'Take only clients with a certificate of the CA in ca-cert.pem that ca-crl.pem does not revoke; clients without TLS too with --tls=on'
complete -c agent -n "__fish_agent_serves" -s f -l foreground -d 'Stay in the foreground; the default, unless the program is called as nbdkit'
complete -c agent -n "__fish_agent_serves" -l background -d 'Go into the background when ready; the exit status is 0 only if it became ready'
complete -c agent -n "__fish_agent_serves" -l exit-with-parent -d 'End when the process that started this one ends'
complete -c agent -n "__fish_agent_serves" -l swap -d 'Lock the agent in memory, for a disk that this machine swaps to'
complete -c agent -n "__fish_agent_serves" -l print-uri -d 'Print the URI of each listener on stdout when ready; vsock as a guest would name it'
complete -c agent -n "__fish_agent_serves" -s v -l verbose -d 'Log more'
complete -c agent -n "__fish_agent_serves" -l no-sr -d 'Offer no structured replies, and nothing that needs them'
complete -c agent -n "__fish_agent_serves" -l no-mc -d 'Offer no metadata contexts, and so no block status'
complete -c agent -n "__fish_agent_serves" -s n -l newstyle -d 'The newstyle protocol: always so'
complete -c agent -n "__fish_agent_serves" -s h -l help -d 'Print help; after a plugin and filters, also their parameters'
complete -c agent -n "__fish_agent_serves" -s V -l version -d 'Print the version; after a plugin and filters, also theirs'
complete -c agent -n "__fish_agent_serves" -l dump-config -d 'Print the settings of this build, as KEY=VALUE'
complete -c agent -n "__fish_agent_serves" -l dump-plugin -d 'Print the properties of the plugin, as KEY=VALUE'
complete -c agent -n "__fish_agent_serves" -l short-options -d 'The options of one letter, one a line'
complete -c agent -n "__fish_agent_serves" -l long-options -d 'The long options, one a line'
complete -c agent -n "__fish_agent_needs_command" -a "completions" -d 'Prints a shell\'s completions of this command line'
complete -c agent -n "__fish_agent_needs_command" -a "doctor" -d 'Says why vsock does not work here, and how to fix it'
complete -c agent -n "__fish_agent_needs_command" -a "libvirt" -d 'Gives domains of libvirt their vsock devices'
complete -c agent -n "__fish_agent_needs_command" -a "man" -d 'Prints the pages of the manual'
complete -c agent -n "__fish_agent_needs_command" -a "qemu" -d 'Gives virtual machines of QEMU their vsock devices, by QMP'
complete -c agent -n "__fish_agent_needs_command" -a "supervise" -d 'Runs the agent and starts it again when it dies, without closing its sockets'
complete -c agent -n "__fish_agent_using_subcommand completions" -l dir -d 'Write those of bash, fish and zsh into this directory' -r -F
complete -c agent -n "__fish_agent_using_subcommand doctor" -s p -l port -d 'The vsock port of the agent [default: 10809]' -r
complete -c agent -n "__fish_agent_using_subcommand doctor" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand doctor" -l fix -d 'Run the safe fixes, each after a yes, and look again'
complete -c agent -n "__fish_agent_using_subcommand doctor" -l yes -d 'Take every answer for yes'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and not __fish_seen_subcommand_from xml edit attach cid" -f -a "xml" -d 'Prints the <vsock> element of a domain'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and not __fish_seen_subcommand_from xml edit attach cid" -f -a "edit" -d 'Puts a vsock device into a domain\'s XML, and prints all of it'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and not __fish_seen_subcommand_from xml edit attach cid" -f -a "attach" -d 'Attaches a vsock device to a domain, by virsh'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and not __fish_seen_subcommand_from xml edit attach cid" -f -a "cid" -d 'Prints the CID that a running domain really has'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from xml" -l cid -d 'The guest\'s CID, 3 to 4294967294; auto: libvirt chooses at each start' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from xml" -l model -d 'The device\'s model [default: virtio]' -r -f -a "virtio\t''
virtio-transitional\t''
virtio-non-transitional\t''"
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from xml" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from edit" -l cid -d 'The guest\'s CID, 3 to 4294967294; auto: libvirt chooses at each start' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from edit" -l model -d 'The device\'s model [default: virtio; that of a device that is there stays]' -r -f -a "virtio\t''
virtio-transitional\t''
virtio-non-transitional\t''"
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from edit" -l replace -d 'Give a device that is there this CID, and this model'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from edit" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l cid -d 'The guest\'s CID, 3 to 4294967294; auto: libvirt chooses at each start' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l model -d 'The device\'s model [default: virtio; a device that is there may have any]' -r -f -a "virtio\t''
virtio-transitional\t''
virtio-non-transitional\t''"
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -s c -l connect -d 'libvirt\'s connection, such as qemu:///system [default: virsh\'s]' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l timeout -d 'How long virsh may take for each step' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l live -d 'The domain that runs'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l config -d 'The domain as it is kept, for its next start'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from attach" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from cid" -s c -l connect -d 'libvirt\'s connection, such as qemu:///system [default: virsh\'s]' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from cid" -l timeout -d 'How long virsh may take for each step' -r
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from cid" -l config -d 'The domain as it is kept, for its next start'
complete -c agent -n "__fish_agent_using_subcommand libvirt; and __fish_seen_subcommand_from cid" -l json -d 'Print one JSON object'
complete -c agent -n "__fish_agent_using_subcommand man" -l dir -d 'Write every page into this directory' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "attach" -d 'Puts a vsock device into a machine that runs'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "detach" -d 'Takes a vsock device out of a machine, and waits until it is out'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "list" -d 'Shows every vsock device of a machine'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "args" -d 'Prints the part of QEMU\'s command line for a machine\'s vsock device'
complete -c agent -n "__fish_agent_using_subcommand qemu; and not __fish_seen_subcommand_from attach detach list args watch" -f -a "watch" -d 'Prints the events of a machine as lines of JSON, to its end'
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l qmp -d 'The Unix socket of QEMU\'s -qmp' -r -F
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l cid -d 'The guest\'s CID, or a range from which one is chosen at random' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l id -d 'QEMU\'s name of the device' -r
complete -c agent -n "__fish_agent_using_subcommand qemu; and __fish_seen_subcommand_from attach" -l port -d 'The agent\'s port, for the guest\'s command [default: 10809]' -r
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

function __fish_agent_serves
    not __fish_agent_using_subcommand completions doctor libvirt man qemu supervise
end

function __fish_agent_has_filter
    set -l cmd (commandline -opc)
    contains -- $argv[1] $cmd; or contains -- --filter=$argv[1] $cmd
end

complete -c agent -n "__fish_agent_needs_command" -a "data" -d 'A memory disk with contents from the command line'
complete -c agent -n "__fish_agent_using_subcommand data" -a "data=" -d 'Bytes, words, strings, files, offsets: nbdkit-data-plugin(1)'
complete -c agent -n "__fish_agent_using_subcommand data" -a "base64=" -d 'The contents in base64'
complete -c agent -n "__fish_agent_using_subcommand data" -a "raw=" -d 'The contents as plain text'
complete -c agent -n "__fish_agent_using_subcommand data" -a "size=" -d 'Size of the disk [default: the size of the contents]'
complete -c agent -n "__fish_agent_using_subcommand data" -a "allocator=sparse" -d 'Memory is allocated as it is written'
complete -c agent -n "__fish_agent_using_subcommand data" -a "VAR=" -d 'Any other name: a variable, $VAR in data'
complete -c agent -n "__fish_agent_needs_command" -a "file" -d 'A file, a block device, or a directory of them'
complete -c agent -n "__fish_agent_using_subcommand file" -a "file=" -d 'The file or block device to serve'
complete -c agent -n "__fish_agent_using_subcommand file" -a "dir=" -d 'Serve every file in this directory, each as an export'
complete -c agent -n "__fish_agent_using_subcommand file" -a "cache=default" -d 'none: bypass the page cache (O_DIRECT)'
complete -c agent -n "__fish_agent_using_subcommand file" -a "cache=none" -d 'none: bypass the page cache (O_DIRECT)'
complete -c agent -n "__fish_agent_using_subcommand file" -a "fadvise=normal" -d 'The expected pattern of reads'
complete -c agent -n "__fish_agent_using_subcommand file" -a "fadvise=random" -d 'The expected pattern of reads'
complete -c agent -n "__fish_agent_using_subcommand file" -a "fadvise=sequential" -d 'The expected pattern of reads'
complete -c agent -n "__fish_agent_needs_command" -a "full" -d 'A disk of zeroes; writes fail for lack of space'
complete -c agent -n "__fish_agent_using_subcommand full" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_needs_command" -a "memory" -d 'Memory; only written blocks take memory, and trim frees it'
complete -c agent -n "__fish_agent_using_subcommand memory" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_using_subcommand memory" -a "allocator=sparse" -d 'Memory is allocated as it is written'
complete -c agent -n "__fish_agent_needs_command" -a "nbd" -d 'The disk of another NBD server'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "uri=" -d 'Where it is: nbd://HOST, nbd+unix:///?socket=PATH, nbd+vsock://CID; nbds... with TLS'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "socket=" -d 'Its Unix socket'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "hostname=" -d 'Its host, over TCP'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "port=" -d 'Its port, a number or (with hostname) a service [default: 10809]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "vsock=" -d 'The machine that it is in, over AF_VSOCK'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "socket-fd=" -d 'A connected socket that this process has inherited'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "command=" -d 'A server to start, with a listening socket as from systemd'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "arg=" -d 'For the command'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "export=" -d 'Its export [default: the one without a name]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "dynamic-export=" -d 'Open the export that the client names [default: false]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "retry=" -d 'Tries to connect after the first, a second between [default: 0]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "shared=" -d 'One connection for all clients [default: false; true with command and socket-fd]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls=off" -d 'TLS to the server: none; if the server has it; or no connection without it [default: off; on with another key of TLS; require with nbds]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls=on" -d 'TLS to the server: none; if the server has it; or no connection without it [default: off; on with another key of TLS; require with nbds]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls=require" -d 'TLS to the server: none; if the server has it; or no connection without it [default: off; on with another key of TLS; require with nbds]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls-certificates=" -d 'Where ca-cert.pem is, and client-cert.pem and client-key.pem to show to the server; HUP reads them again [default: ~/.pki/libnbd, ~/.config/pki/libnbd or /etc/pki/libnbd]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls-verify=" -d 'Check the server\'s certificate; without that, anybody in between can pass for the server [default: true]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls-hostname=" -d 'The name that the server\'s certificate must have [default: the host; without one, any]'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls-username=" -d 'Taken for nbdkit\'s sake: certificates have no use for it'
complete -c agent -n "__fish_agent_using_subcommand nbd" -a "tls-psk=" -d 'Not built'
complete -c agent -n "__fish_agent_needs_command" -a "null" -d 'Reads as zeroes and discards writes'
complete -c agent -n "__fish_agent_using_subcommand null" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_needs_command" -a "ondemand" -d 'A filesystem per export name, made when a client first opens it, and kept'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "dir=" -d 'The directory of the filesystems'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "wait=" -d 'Wait for the client that has the disk, instead of refusing [default: false]'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "type=" -d 'The filesystem, as mkfs(8) -t [default: ext4]'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "label=" -d 'The filesystem\'s label'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "command=" -d 'Shell command instead of mkfs; it makes "$disk" of $size bytes'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "max-total=" -d 'Most bytes of all disks together; a further disk is refused'
complete -c agent -n "__fish_agent_using_subcommand ondemand" -a "VAR=" -d 'Any other name: a variable of the command'
complete -c agent -n "__fish_agent_needs_command" -a "ones" -d 'Reads as one repeated byte and discards writes'
complete -c agent -n "__fish_agent_using_subcommand ones" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_using_subcommand ones" -a "byte=" -d 'The byte [default: 0xff]'
complete -c agent -n "__fish_agent_needs_command" -a "pattern" -d 'Each 8 bytes are their offset, big-endian'
complete -c agent -n "__fish_agent_using_subcommand pattern" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_needs_command" -a "random" -d 'Random bytes from a seed; a write must have the same bytes'
complete -c agent -n "__fish_agent_using_subcommand random" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_using_subcommand random" -a "seed=" -d 'A number of 32 bits; the same seed gives the same bytes'
complete -c agent -n "__fish_agent_needs_command" -a "split" -d 'Files one after the other, as one disk'
complete -c agent -n "__fish_agent_using_subcommand split" -a "file=" -d 'The next file'
complete -c agent -n "__fish_agent_needs_command" -a "tmpdisk" -d 'A fresh filesystem per client, removed at its end; in TMPDIR or /var/tmp'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "size=" -d 'Size of the disk'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "type=" -d 'The filesystem, as mkfs(8) -t [default: ext4]'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "label=" -d 'The filesystem\'s label'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "command=" -d 'Shell command instead of mkfs; it makes "$disk" of $size bytes'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "max-total=" -d 'Most bytes of all disks together; a further disk is refused'
complete -c agent -n "__fish_agent_using_subcommand tmpdisk" -a "VAR=" -d 'Any other name: a variable of the command'
complete -c agent -n "__fish_agent_needs_command" -a "zero" -d 'A disk of no bytes'
complete -c agent -n "__fish_agent_using_subcommand completions" -a "bash" -d ''
complete -c agent -n "__fish_agent_using_subcommand completions" -a "elvish" -d ''
complete -c agent -n "__fish_agent_using_subcommand completions" -a "fish" -d ''
complete -c agent -n "__fish_agent_using_subcommand completions" -a "powershell" -d ''
complete -c agent -n "__fish_agent_using_subcommand completions" -a "zsh" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "completions" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "doctor" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "libvirt" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "man" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "qemu" -d ''
complete -c agent -n "__fish_agent_using_subcommand man" -a "supervise" -d ''
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-minimum=" -d 'Smallest unit, a power of two up to 64K'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-preferred=" -d 'Best unit, a power of two from 512 to 32M'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-maximum=" -d 'Longest read or write; at most 32M is advertised'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-error-policy=allow" -d 'Refuse other requests (EINVAL); error: except a short last block [default: allow]'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-error-policy=error" -d 'Refuse other requests (EINVAL); error: except a short last block [default: allow]'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-error-policy=strict-error" -d 'Refuse other requests (EINVAL); error: except a short last block [default: allow]'
complete -c agent -n "__fish_agent_has_filter blocksize-policy" -a "blocksize-write-disconnect=" -d 'Disconnect clients that send a longer write [default: 0, never]'
complete -c agent -n "__fish_agent_has_filter cow" -a "cow-block-size=" -d 'Size of the blocks that are copied, 4K to 64M [default: 64K]'
complete -c agent -n "__fish_agent_has_filter cow" -a "cow-on-cache=" -d 'Cache requests fill the overlay [default: false]'
complete -c agent -n "__fish_agent_has_filter cow" -a "cow-on-read=" -d 'Reads fill the overlay; with a path, while it exists'
complete -c agent -n "__fish_agent_has_filter delay" -a "rdelay=" -d 'Delay of reads'
complete -c agent -n "__fish_agent_has_filter delay" -a "wdelay=" -d 'Delay of writes, zeroes and trims'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-read=" -d 'Delay of reads'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-write=" -d 'Delay of writes alone'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-zero=" -d 'Delay of zeroes'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-trim=" -d 'Delay of trims'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-extents=" -d 'Delay of extent requests'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-cache=" -d 'Delay of cache requests'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-flush=" -d 'Delay of flushes'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-fast-zero=on" -d 'off: refuse fast zeroes at once [default: on]'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-fast-zero=off" -d 'off: refuse fast zeroes at once [default: on]'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-open=" -d 'Delay of opening an export'
complete -c agent -n "__fish_agent_has_filter delay" -a "delay-close=" -d 'Delay of closing, after a client\'s NBD_CMD_DISC'
complete -c agent -n "__fish_agent_has_filter error" -a "error=" -d 'Which error [default: EIO]'
complete -c agent -n "__fish_agent_has_filter error" -a "error-rate=" -d 'How many of all but flushes fail [default: 0]'
complete -c agent -n "__fish_agent_has_filter error" -a "error-file=" -d 'Only while this file exists'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pread=" -d 'Of reads'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pread-rate=" -d 'Of reads'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pread-file=" -d 'Of reads'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pwrite=" -d 'Of writes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pwrite-rate=" -d 'Of writes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-pwrite-file=" -d 'Of writes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-trim=" -d 'Of trims'
complete -c agent -n "__fish_agent_has_filter error" -a "error-trim-rate=" -d 'Of trims'
complete -c agent -n "__fish_agent_has_filter error" -a "error-trim-file=" -d 'Of trims'
complete -c agent -n "__fish_agent_has_filter error" -a "error-zero=" -d 'Of zeroes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-zero-rate=" -d 'Of zeroes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-zero-file=" -d 'Of zeroes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-extents=" -d 'Of requests for extents'
complete -c agent -n "__fish_agent_has_filter error" -a "error-extents-rate=" -d 'Of requests for extents'
complete -c agent -n "__fish_agent_has_filter error" -a "error-extents-file=" -d 'Of requests for extents'
complete -c agent -n "__fish_agent_has_filter error" -a "error-cache=" -d 'Of requests to cache'
complete -c agent -n "__fish_agent_has_filter error" -a "error-cache-rate=" -d 'Of requests to cache'
complete -c agent -n "__fish_agent_has_filter error" -a "error-cache-file=" -d 'Of requests to cache'
complete -c agent -n "__fish_agent_has_filter error" -a "error-flush=" -d 'Of flushes'
complete -c agent -n "__fish_agent_has_filter error" -a "error-flush-rate=" -d 'Of flushes, which error-rate does not count'
complete -c agent -n "__fish_agent_has_filter error" -a "error-flush-file=" -d 'Of flushes'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-file-created=" -d 'The file exists'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-file-deleted=" -d 'The file does not exist'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-pipe-closed=" -d 'The other end of this pipe is closed'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-process-exits=" -d 'This process has ended'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-script=" -d 'The command exits with 88'
complete -c agent -n "__fish_agent_has_filter exitwhen" -a "exit-when-poll=" -d 'How often files and scripts are checked [default: 60]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "default-export=" -d 'The export for a client that names none'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-list=keep" -d 'Which exports are listed; explicit: those of exportname [default: keep]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-list=error" -d 'Which exports are listed; explicit: those of exportname [default: keep]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-list=empty" -d 'Which exports are listed; explicit: those of exportname [default: keep]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-list=defaultonly" -d 'Which exports are listed; explicit: those of exportname [default: keep]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-list=explicit" -d 'Which exports are listed; explicit: those of exportname [default: keep]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname=" -d 'A name that may be listed or opened'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportname-strict=" -d 'Only the names of exportname can be opened [default: false]'
complete -c agent -n "__fish_agent_has_filter exportname" -a "exportdesc=" -d 'Descriptions; the shell runs a command with $name [default: keep]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=none" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=emulate" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=native" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=force" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=pass" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter fua" -a "fuamode=discard" -d 'How FUA and flush are done; discard loses data in a crash [default: none]'
complete -c agent -n "__fish_agent_has_filter ip" -a "allow=" -d 'Clients that may connect, even if deny names them; rules as for --allow'
complete -c agent -n "__fish_agent_has_filter ip" -a "deny=" -d 'Clients that may not connect'
complete -c agent -n "__fish_agent_has_filter limit" -a "limit=" -d 'Most clients; 0 is no limit [default: 1, or 0 with limit-per-cid]'
complete -c agent -n "__fish_agent_has_filter limit" -a "limit-per-cid=" -d 'Most clients per CID, over vsock; 0 is no limit [default: 0]'
complete -c agent -n "__fish_agent_has_filter log" -a "logfile=" -d 'The file for the lines; opened again at HUP'
complete -c agent -n "__fish_agent_has_filter log" -a "logappend=" -d 'Append to the file [default: no, replace it]'
complete -c agent -n "__fish_agent_has_filter log" -a "logscript=" -d 'Run for each line, with the line in its variables'
complete -c agent -n "__fish_agent_has_filter log" -a "logformat=text" -d 'nbdkit\'s lines, or JSON objects [default: text]'
complete -c agent -n "__fish_agent_has_filter log" -a "logformat=json" -d 'nbdkit\'s lines, or JSON objects [default: text]'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-mode=auto" -d 'How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-mode=emulate" -d 'How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-mode=plugin" -d 'How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-mode=disable" -d 'How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-mode=unsafe" -d 'How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-track-dirty=fast" -d 'Skip flushes: if no connection wrote; of connections that did nothing; never [default: connection]'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-track-dirty=connection" -d 'Skip flushes: if no connection wrote; of connections that did nothing; never [default: connection]'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-track-dirty=off" -d 'Skip flushes: if no connection wrote; of connections that did nothing; never [default: connection]'
complete -c agent -n "__fish_agent_has_filter multi-conn" -a "multi-conn-exportname=" -d 'Do not flush connections of other exports [default: false]'
complete -c agent -n "__fish_agent_has_filter nocache" -a "cachemode=none" -d 'Refuse them, read instead, or ignore them [default: none]'
complete -c agent -n "__fish_agent_has_filter nocache" -a "cachemode=emulate" -d 'Refuse them, read instead, or ignore them [default: none]'
complete -c agent -n "__fish_agent_has_filter nocache" -a "cachemode=nop" -d 'Refuse them, read instead, or ignore them [default: none]'
complete -c agent -n "__fish_agent_has_filter nozero" -a "zeromode=none" -d 'Not advertised; written as data; without holes; unchanged [default: none]'
complete -c agent -n "__fish_agent_has_filter nozero" -a "zeromode=emulate" -d 'Not advertised; written as data; without holes; unchanged [default: none]'
complete -c agent -n "__fish_agent_has_filter nozero" -a "zeromode=notrim" -d 'Not advertised; written as data; without holes; unchanged [default: none]'
complete -c agent -n "__fish_agent_has_filter nozero" -a "zeromode=plugin" -d 'Not advertised; written as data; without holes; unchanged [default: none]'
complete -c agent -n "__fish_agent_has_filter nozero" -a "fastzeromode=none" -d 'Not advertised; always refused; done even if slow (unsafe); unchanged'
complete -c agent -n "__fish_agent_has_filter nozero" -a "fastzeromode=slow" -d 'Not advertised; always refused; done even if slow (unsafe); unchanged'
complete -c agent -n "__fish_agent_has_filter nozero" -a "fastzeromode=ignore" -d 'Not advertised; always refused; done even if slow (unsafe); unchanged'
complete -c agent -n "__fish_agent_has_filter nozero" -a "fastzeromode=default" -d 'Not advertised; always refused; done even if slow (unsafe); unchanged'
complete -c agent -n "__fish_agent_has_filter offset" -a "offset=" -d 'Start of the part [default: 0]'
complete -c agent -n "__fish_agent_has_filter offset" -a "range=" -d 'Length of the part [default: to the end]'
complete -c agent -n "__fish_agent_has_filter partition" -a "partition=" -d 'Number of the partition, from 1; from 5 on logical partitions of an MBR'
complete -c agent -n "__fish_agent_has_filter partition" -a "partition-sectorsize=" -d 'Bytes in a sector [default: 512]'
complete -c agent -n "__fish_agent_has_filter pause" -a "pause-control=" -d 'The socket for commands: p pauses, r resumes'
complete -c agent -n "__fish_agent_has_filter protect" -a "protect=" -d 'Bytes from START to END; ~: all but these'
complete -c agent -n "__fish_agent_has_filter rate" -a "rate=" -d 'Bits per second of all connections together'
complete -c agent -n "__fish_agent_has_filter rate" -a "connection-rate=" -d 'Bits per second of each connection'
complete -c agent -n "__fish_agent_has_filter rate" -a "rate-file=" -d 'File with the rate of all; read again when it changes'
complete -c agent -n "__fish_agent_has_filter rate" -a "connection-rate-file=" -d 'File with the rate of each; read again when it changes'
complete -c agent -n "__fish_agent_has_filter rate" -a "burstiness=" -d 'Seconds of the rate that an idle client saves up [default: 2]'
complete -c agent -n "__fish_agent_has_filter readonly" -a "readonly-file=" -d 'Only while this file exists'
complete -c agent -n "__fish_agent_has_filter stats" -a "statsfile=" -d 'The file for the statistics'
complete -c agent -n "__fish_agent_has_filter stats" -a "statsappend=" -d 'Append to the file [default: no, replace it]'
complete -c agent -n "__fish_agent_has_filter stats" -a "statsthreshold=" -d 'Report the sizes of N % of the requests [default: 95]'
complete -c agent -n "__fish_agent_has_filter truncate" -a "truncate=" -d 'The size of the disk'
complete -c agent -n "__fish_agent_has_filter truncate" -a "round-up=" -d 'Make it longer, to a multiple of this'
complete -c agent -n "__fish_agent_has_filter truncate" -a "round-down=" -d 'Make it shorter, to a multiple of this'

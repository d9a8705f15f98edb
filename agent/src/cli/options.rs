//! The options, each once: clap's definitions and the text of `--help`. Options that nbdkit has are named as in nbdkit.
//!
//! `cli` turns these into a `Plan`. Nothing here knows how options combine.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  agent --vsock memory 1G              a sparse memory disk for the guests of this machine
  agent -r --vsock file disk.img       a file, read-only
  agent -U /run/nbd.sock file disk.img a Unix socket
  agent --listen vsock:10809 --listen tcp:127.0.0.1:10809 memory 1G
                                       two listeners at once
In a guest: nbdsh -c 'h.connect_vsock(2, 10809)' -c 'print(h.get_size())'

Instead of serving, as the first word:
  agent completions SHELL              what a shell needs to complete all this
  agent doctor                         why vsock does not work here, and how to fix it
  agent libvirt                        vsock devices of libvirt's domains
  agent man                            the manual's pages
  agent qemu                           vsock devices of QEMU's machines, by QMP
  agent supervise -- WORDS             'agent WORDS', started again when it dies, with its sockets kept

Without -p, -i, -U, --vsock and --listen the agent listens on TCP port 10809 of all addresses, with
--run on a private Unix socket. Started by a systemd socket unit (LISTEN_FDS) it serves on that
unit's sockets.";

/// What the words say, before anything is checked.
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    disable_help_flag = true,
    about = "Serves a disk over NBD to the guests of this machine (AF_VSOCK), and over TCP and Unix sockets",
    override_usage = "agent [OPTIONS] PLUGIN [KEY=VALUE | VALUE]...",
    after_help = EXAMPLES,
    // As in nbdkit (getopt_long): a unique prefix of a long option is enough, and the last one counts.
    infer_long_args = true,
    args_override_self = true,
)]
pub(super) struct Said {
    /// Listen on AF_VSOCK instead of TCP: for the guests of this machine
    #[arg(long, help_heading = "Listening")]
    pub(super) vsock: bool,

    /// Port: 16 bits with TCP, 32 bits with --vsock; TCP port 0 is any free one [default: 10809]
    #[arg(short, long, value_name = "PORT", help_heading = "Listening")]
    pub(super) port: Option<String>,

    /// TCP address or host name to listen on [default: all addresses]
    #[arg(short, long, alias = "ip-addr", value_name = "IPADDR", help_heading = "Listening")]
    pub(super) ipaddr: Option<String>,

    /// IPv4 addresses only
    #[arg(short = '4', long, overrides_with = "ipv6_only", help_heading = "Listening")]
    pub(super) ipv4_only: bool,

    /// IPv6 addresses only
    #[arg(short = '6', long, overrides_with = "ipv4_only", help_heading = "Listening")]
    pub(super) ipv6_only: bool,

    /// Unix socket to listen on; '-' makes a private one. It is removed at exit
    #[arg(short = 'U', long, value_name = "SOCKET", help_heading = "Listening")]
    pub(super) unix: Option<PathBuf>,

    /// Another place to listen on, in addition to those above: vsock:PORT, vsock:CID:PORT,
    /// tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, vhost-user:PATH[,cid=N][,port=P] (the vsock device of
    /// QEMU's guest ends here: no kernel module) or hybrid:PATH[,port=P] (Firecracker, Cloud
    /// Hypervisor); these two take mode=0660, owner=USER and group=GROUP of their socket too. May be
    /// given again
    #[arg(long, value_name = "URI", help_heading = "Listening")]
    pub(super) listen: Vec<String>,

    /// Serve one client on stdin and stdout, for inetd and xinetd, and end with it
    #[arg(short, long, alias = "stdin", help_heading = "Listening")]
    pub(super) single: bool,
    /// Find out when a TCP peer is gone (SO_KEEPALIVE)
    #[arg(long, help_heading = "Listening")]
    pub(super) keepalive: bool,

    /// Refuse writes
    #[arg(short, long, alias = "read-only", help_heading = "Serving")]
    pub(super) readonly: bool,

    #[command(flatten)]
    pub(super) access: super::access::Words,

    #[command(flatten)]
    pub(super) limits: super::limits::Words,

    #[command(flatten)]
    pub(super) machines: super::machines::Words,

    /// Put a layer around the disk; the first one given is nearest to the client
    #[arg(long, value_name = "FILTER", help_heading = "Serving")]
    pub(super) filter: Vec<String>,

    /// Export name in the URIs of --print-uri and --run; changes nothing else, as with nbdkit
    #[arg(
        short,
        long,
        aliases = ["export", "export-name"],
        value_name = "EXPORTNAME",
        default_value = "",
        hide_default_value = true,
        help_heading = "Serving"
    )]
    pub(super) exportname: String,

    /// Requests of one connection that may wait for the disk at once; 0: the agent chooses
    #[arg(short, long, default_value_t = 0, hide_default_value = true, help_heading = "Serving")]
    pub(super) threads: u32,

    /// How files are read and written: by io_uring where the kernel allows it (auto), by io_uring only (uring), or
    /// by threads that wait
    #[arg(
        long,
        value_name = "WAY",
        value_parser = ["auto", "uring", "threads"],
        default_value = "auto",
        help_heading = "Serving"
    )]
    pub(super) io: String,

    /// Disconnect a client whose handshake takes longer: seconds, or 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Serving")]
    pub(super) timeout: String,

    /// After TERM and INT, close connections whose requests take longer
    #[arg(long, value_name = "TIME", default_value = "5s", help_heading = "Serving")]
    pub(super) shutdown_timeout: String,

    #[command(flatten)]
    pub(super) tls: super::tls::Words,

    /// Stay in the foreground; the default, unless the program is called as nbdkit
    #[arg(short, long, alias = "no-fork", help_heading = "The process")]
    pub(super) foreground: bool,

    /// Go into the background when ready; the exit status is 0 only if it became ready
    #[arg(long, help_heading = "The process")]
    pub(super) background: bool,

    /// Run a shell command with the variables $uri, $port, $unixsocket and $exportname, and exit with
    /// its status when it ends. Without an address the agent listens on a private Unix socket
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true, help_heading = "The process")]
    pub(super) run: Option<String>,

    /// End when the process that started this one ends
    #[arg(long, help_heading = "The process")]
    pub(super) exit_with_parent: bool,

    /// Change to this user after everything is open: a name or a number
    #[arg(short, long, value_name = "USER", help_heading = "The process")]
    pub(super) user: Option<String>,

    /// Change to this group after everything is open [default: that of --user]
    #[arg(short, long, value_name = "GROUP", help_heading = "The process")]
    pub(super) group: Option<String>,

    /// Lock the agent in memory, for a disk that this machine swaps to
    #[arg(long, help_heading = "The process")]
    pub(super) swap: bool,

    /// SELinux label of the listening sockets
    #[arg(long, value_name = "LABEL", help_heading = "The process")]
    pub(super) selinux_label: Option<String>,

    /// Write the process id to PIDFILE when ready. It is removed at exit
    #[arg(
        short = 'P',
        long,
        alias = "pid-file",
        value_name = "PIDFILE",
        help_heading = "The process"
    )]
    pub(super) pidfile: Option<PathBuf>,

    /// Print the URI of each listener on stdout when ready; vsock as a guest would name it
    #[arg(long, help_heading = "The process")]
    pub(super) print_uri: bool,

    /// Log more
    #[arg(short, long, help_heading = "The process")]
    pub(super) verbose: bool,

    /// Where the log goes: stderr, json (on stderr), syslog, journald, /PATH (opened again at HUP) or
    /// null; stderr by default, and syslog in the background
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "default",
        hide_default_value = true,
        help_heading = "The process"
    )]
    pub(super) log: String,

    /// Offer no structured replies, and nothing that needs them
    #[arg(long, alias = "no-structured-replies", help_heading = "For testing clients")]
    pub(super) no_sr: bool,

    /// Offer no metadata contexts, and so no block status
    #[arg(long, alias = "no-meta-contexts", help_heading = "For testing clients")]
    pub(super) no_mc: bool,

    /// Offer these handshake flags only: 1 is fixed newstyle, 2 no zeroes
    #[arg(long, value_name = "MASK", help_heading = "For testing clients")]
    pub(super) mask_handshake: Option<String>,

    /// The newstyle protocol: always so
    #[arg(short, long, alias = "new-style", hide = true)]
    pub(super) newstyle: bool,

    /// Print help; after a plugin and filters, also their parameters
    #[arg(short, long, help_heading = "Instead of serving")]
    pub(super) help: bool,

    /// Print the version; after a plugin and filters, also theirs
    #[arg(short = 'V', long, help_heading = "Instead of serving")]
    pub(super) version: bool,

    /// Print the settings of this build, as KEY=VALUE
    #[arg(long, help_heading = "Instead of serving")]
    pub(super) dump_config: bool,

    /// Print the properties of the plugin, as KEY=VALUE
    #[arg(long, help_heading = "Instead of serving")]
    pub(super) dump_plugin: bool,

    /// The options of one letter, one a line
    #[arg(long, help_heading = "Instead of serving")]
    pub(super) short_options: bool,

    /// The long options, one a line
    #[arg(long, help_heading = "Instead of serving")]
    pub(super) long_options: bool,

    /// What to serve, such as memory or file; --dump-config names all
    #[arg(value_name = "PLUGIN")]
    pub(super) plugin: Option<String>,

    /// The plugin's parameters; a bare VALUE is its main one, such as the size or the file
    #[arg(value_name = "KEY=VALUE | VALUE")]
    pub(super) params: Vec<String>,
}

//! Parsing of the variables, and adoption of each kind of descriptor.

use std::{
    fs::File,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::*;

fn said(pid: &str, fds: &str, names: Option<&str>) -> Result<Announced, String> {
    let [pid, fds] = [pid, fds].map(|text| (text != "-").then(|| text.into()));
    read(pid, fds, names.map(Into::into), 77).map_err(|error| error.to_string())
}

#[test]
fn variables_are_read() {
    let handed = |count, names: &[&str]| {
        Ok(Announced { count, names: names.iter().map(|&name| name.to_owned()).collect() })
    };
    for (pid, fds, names, expected) in [
        ("77", "1", None, handed(1, &[])),
        ("77", "2", Some("a:b"), handed(2, &["a", "b"])),
        ("77", "2", Some(":"), handed(2, &["", ""])),
        ("77", "1", Some("a\n"), handed(1, &["a\\n"])),
        // The number of names does not match.
        ("77", "3", Some("a:b"), handed(3, &[])),
        ("77", "0", None, handed(0, &[])),
        // Meant for another process, so the contents do not matter.
        ("78", "1", None, handed(0, &[])),
        ("78", "x", None, handed(0, &[])),
        ("-", "1", None, handed(0, &[])),
        ("77", "-", None, handed(0, &[])),
    ] {
        assert_eq!(said(pid, fds, names), expected, "{pid} {fds} {names:?}");
    }
    for (pid, fds, part) in [
        ("x", "1", "LISTEN_PID is 'x'"),
        ("", "1", "LISTEN_PID is ''"),
        ("77", "", "LISTEN_FDS is ''"),
        ("77", "-1", "LISTEN_FDS is '-1'"),
        ("77", "+1", "LISTEN_FDS is '+1'"),
        ("77", "1 ", "LISTEN_FDS is '1 '"),
        ("77", "2147483645", "LISTEN_FDS is '2147483645'"),
        ("77", "99999999999", "LISTEN_FDS is '99999999999'"),
        ("77", "a\u{7}", "LISTEN_FDS is 'a\\u{7}'"),
    ] {
        let error = said(pid, fds, None).unwrap_err();
        assert!(error.contains(part) && error.contains("no number"), "{error}");
    }
}

#[test]
fn a_descriptor_is_called_by_its_number_and_its_name() {
    let handed =
        Announced { count: 3, names: vec!["nbd.socket".into(), "unknown".into(), String::new()] };
    let which: Vec<_> = handed.each().map(|which| which.to_string()).collect();
    assert_eq!(which, ["descriptor 3 (nbd.socket)", "descriptor 4", "descriptor 5"]);
}

fn which(name: Option<&str>) -> Which {
    Which { fd: 3, name: name.map(str::to_owned) }
}

fn listener(fd: impl Into<OwnedFd>, name: Option<&str>) -> Listener {
    match one(&which(name), fd.into()).unwrap() {
        One::Listener(listener) => listener,
        One::Connection(_, peer) => panic!("a connection of {peer}"),
    }
}

#[tokio::test]
async fn listeners_of_every_family_are_adopted() {
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = v4.local_addr().unwrap();
    let mut v4 = listener(v4, Some("nbd"));
    assert_eq!(v4.to_string(), format!("tcp:{address} (systemd: nbd)"));
    assert_eq!(v4.uri("x"), Some(format!("nbd://{address}/x")));
    let client = TcpStream::connect(address).unwrap();
    let (_, peer) = v4.accept().await;
    assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));

    // systemd's sockets serve both families. An IPv4 client has an IPv4 address as peer.
    let both = TcpListener::bind("[::]:0").unwrap();
    let port = both.local_addr().unwrap().port();
    let mut both = listener(both, None);
    assert_eq!(both.to_string(), format!("tcp:[::]:{port} (socket activation)"));
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(both.accept().await.1, Peer::Tcp(client.local_addr().unwrap()));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut unix = listener(UnixListener::bind(&path).unwrap(), None);
    assert_eq!(unix.to_string(), format!("unix:{} (socket activation)", path.display()));
    let _client = UnixStream::connect(&path).unwrap();
    assert!(matches!(unix.accept().await.1, Peer::Unix { .. }));
    drop(unix);
    assert!(path.exists(), "it is systemd's");

    let name = format!("agent\u{1}{}", process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let mut hidden = listener(UnixListener::bind_addr(&name).unwrap(), None);
    assert!(hidden.to_string().starts_with("unix:@agent\\x01"), "{hidden}");
    assert_eq!(hidden.uri(""), None);
    let _client = UnixStream::connect_addr(&name).unwrap();
    hidden.accept().await;
}

#[tokio::test]
async fn a_vsock_listener_is_adopted() {
    // Only bound: nothing connects to it.
    let socket = tokio_vsock::VsockListener::bind(tokio_vsock::VsockAddr::new(u32::MAX, u32::MAX));
    let socket = socket.expect("AF_VSOCK in this kernel");
    let port = socket.local_addr().unwrap().port();
    let vsock = listener(socket, Some("guests"));
    assert_eq!(vsock.to_string(), format!("vsock:{port} (systemd: guests)"));
    assert_eq!(vsock.uri(""), Some(format!("nbd+vsock://2:{port}")));
}

#[test]
fn connections_are_told_from_listeners_and_their_peers_identified() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    let us = Peer::Unix {
        pid: process::id().try_into().unwrap(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    for (fd, expected) in
        [(accepted.into(), Peer::Tcp(client.local_addr().unwrap())), (OwnedFd::from(unix), us)]
    {
        match one(&which(None), fd).unwrap() {
            One::Connection(_, peer) => assert_eq!(peer, expected),
            One::Listener(listener) => panic!("{listener}"),
        }
    }
}

#[test]
fn descriptors_that_cannot_be_served_are_named() {
    let (pipe, _writer) = io::pipe().unwrap();
    let unbound = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (fd, what) in [
        (udp.into(), "a datagram socket"),
        (UnixDatagram::unbound().unwrap().into(), "a datagram socket"),
        (pipe.into(), "a pipe"),
        (unbound.unwrap(), "neither listens nor is connected"),
        (File::open("/dev/null").unwrap().into(), "a character device"),
        (File::open("/").unwrap().into(), "a directory"),
        (OwnedFd::from(tempfile::tempfile().unwrap()), "a file"),
    ] {
        let error = one(&which(Some("n")), fd).err().expect(what);
        let message = error.to_string();
        assert!(message.starts_with("socket activation: descriptor 3 (n) is"), "{message}");
        assert!(message.contains(what), "{message}");
        assert!(error.hint().unwrap().contains("ListenStream="));
    }
}

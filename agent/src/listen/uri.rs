//! NBD URIs as `--print-uri` shows them, by which a client connects to a listener (doc/uri.md of
//! the NBD project; libnbd's and QEMU's syntax).

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use vsock_cid::Cid;

/// The URI of a TCP listener. A wildcard address becomes `localhost`, as with nbdkit.
pub(super) fn tcp(address: SocketAddr, export: &str) -> String {
    let (host, port) = (address.ip(), address.port());
    let host = match host {
        _ if host.is_unspecified() => "localhost".to_owned(),
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    format!("nbd://{host}:{port}{}", path(export))
}

/// The URI of a vsock listener. Without a CID it is the URI for a guest of this machine.
pub(super) fn vsock(cid: Option<Cid>, port: u32, export: &str) -> String {
    format!("nbd+vsock://{}:{port}{}", cid.unwrap_or(Cid::HOST), path(export))
}

/// The URI of a Unix socket at an absolute path.
pub(super) fn unix(socket: &Path, export: &str) -> String {
    format!(
        "nbd+unix:///{}?socket={}",
        escape(export.as_bytes()),
        escape(socket.as_os_str().as_bytes())
    )
}

fn path(export: &str) -> String {
    if export.is_empty() { String::new() } else { format!("/{}", escape(export.as_bytes())) }
}

/// Percent-encodes all but RFC 3986's unreserved characters and the slash.
pub(super) fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into());
            }
            _ => write!(text, "%{byte:02X}").expect("a String takes all"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_of_nbdkit_and_libnbd() {
        let name = "a b/\u{fc}?";
        for (uri, expected) in [
            (tcp("0.0.0.0:10809".parse().unwrap(), ""), "nbd://localhost:10809"),
            (tcp("[::]:1".parse().unwrap(), name), "nbd://localhost:1/a%20b/%C3%BC%3F"),
            (tcp("127.0.0.1:1".parse().unwrap(), ""), "nbd://127.0.0.1:1"),
            (tcp("[::1]:1".parse().unwrap(), "x"), "nbd://[::1]:1/x"),
            (vsock(None, 3_000_000_000, ""), "nbd+vsock://2:3000000000"),
            (vsock(Some(Cid::LOCAL), 10809, name), "nbd+vsock://1:10809/a%20b/%C3%BC%3F"),
            (unix(Path::new("/run/nbd"), ""), "nbd+unix:///?socket=/run/nbd"),
            (unix(Path::new("/a b&c"), name), "nbd+unix:///a%20b/%C3%BC%3F?socket=/a%20b%26c"),
        ] {
            assert_eq!(uri, expected);
        }
    }
}

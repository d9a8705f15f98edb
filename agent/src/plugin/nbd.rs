//! The disk of another NBD server: nbdkit-nbd-plugin(1). The substance is in `remote`.

mod tls;

use std::{
    os::fd::RawFd,
    sync::{Arc, Mutex},
};

use nbd::wire::DEFAULT_PORT;
use nbd::{Uri, uri::Place};
use nbd_client::tls::TlsError;
use thiserror::Error;
use vsock_cid::Cid;

use super::Entry;
use crate::{
    params::{Key, Params},
    remote::{Endpoint, Remote},
    stack::{BuildError, Context, Stack},
    sys,
};

pub(super) const ENTRY: Entry = Entry {
    name: "nbd",
    about: "The disk of another NBD server",
    keys: &[
        Key::once(
            "uri",
            "URI",
            "Where it is: nbd://HOST, nbd+unix:///?socket=PATH, nbd+vsock://CID; nbds... with TLS",
        ),
        Key::once("socket", "PATH", "Its Unix socket"),
        Key::once("hostname", "HOST", "Its host, over TCP"),
        Key::once(
            "port",
            "PORT",
            "Its port, a number or (with hostname) a service [default: 10809]",
        ),
        Key::once("vsock", "CID", "The machine that it is in, over AF_VSOCK"),
        Key::once("socket-fd", "FD", "A connected socket that this process has inherited"),
        Key::once(
            "command",
            "PROGRAM",
            "A server to start, with a listening socket as from systemd",
        ),
        Key::many("arg", "ARGUMENT", "For the command"),
        Key::once("export", "NAME", "Its export [default: the one without a name]"),
        Key::once(
            "dynamic-export",
            "BOOL",
            "Open the export that the client names [default: false]",
        ),
        Key::once("retry", "N", "Tries to connect after the first, a second between [default: 0]"),
        Key::once(
            "shared",
            "BOOL",
            "One connection for all clients [default: false; true with command and socket-fd]",
        ),
        Key::once(
            "tls",
            "off|on|require",
            "TLS to the server: none; if the server has it; or no connection without it \
             [default: off; on with another key of TLS; require with nbds]",
        ),
        Key::once(
            "tls-certificates",
            "DIR",
            "Where ca-cert.pem is, and client-cert.pem and client-key.pem to show to the server; HUP \
             reads them again [default: ~/.pki/libnbd, ~/.config/pki/libnbd or /etc/pki/libnbd]",
        ),
        Key::once(
            "tls-verify",
            "BOOL",
            "Check the server's certificate; without that, anybody in between can pass for the server \
             [default: true]",
        ),
        Key::once(
            "tls-hostname",
            "NAME",
            "The name that the server's certificate must have [default: the host; without one, any]",
        ),
        Key::once(
            "tls-username",
            "NAME",
            "Taken for nbdkit's sake: certificates have no use for it",
        ),
        Key::once("tls-psk", "FILE", "Not built"),
    ],
    main: Some("uri"),
    build,
};

#[derive(Debug, Error)]
enum NbdError {
    #[error("plugin nbd: give exactly one of uri, socket, hostname, vsock, socket-fd and command")]
    NotOne,
    #[error("plugin nbd: {0} and {1} cannot be used together; leave one out")]
    Together(&'static str, &'static str),
    #[error(
        "plugin nbd: tls-psk: TLS with shared keys to the other server is not built into agent; use certificates \
         (tls-certificates)"
    )]
    SharedKeys,
    #[error("plugin nbd: TLS to the other server")]
    Tls(#[source] TlsError),
    #[error("plugin nbd: socket-fd={0} is not a connected socket that this process has inherited")]
    NoSocket(RawFd),
    #[error("plugin nbd: {0}")]
    Remote(#[source] std::io::Error),
}

fn own(error: NbdError) -> BuildError {
    BuildError::Own(Box::new(error))
}

/// A number, or a name that services(5) has.
fn port(text: &str) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.parse()?);
    }
    let services = std::fs::read_to_string("/etc/services")
        .map_err(|error| format!("/etc/services, where names stand, cannot be read: {error}"))?;
    named(text, &services).ok_or_else(|| "/etc/services has no such service over TCP".into())
}

/// The port of a service in the text of services(5): `name port/tcp alias...`.
fn named(service: &str, services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        let is_it = name == service || words.any(|alias| alias == service);
        is_it.then(|| port.parse().ok()).flatten()
    })
}

fn build(params: &Params<'_>, context: &mut Context<'_>) -> Result<Stack, BuildError> {
    let places = ["uri", "socket", "hostname", "vsock", "socket-fd", "command"];
    let given: Vec<_> = places.into_iter().filter(|key| params.value(key).is_some()).collect();
    let [place] = given[..] else { return Err(own(NbdError::NotOne)) };
    if params.value("port").is_some() && !matches!(place, "hostname" | "vsock") {
        return Err(own(NbdError::Together("port", place)));
    }
    if params.values("arg").next().is_some() && place != "command" {
        return Err(own(NbdError::Together("arg", place)));
    }
    let dynamic = params.switch("dynamic-export")?.unwrap_or(false);
    let mut export = params.value("export").map(str::to_owned);
    if dynamic && export.is_some() {
        return Err(own(NbdError::Together("export", "dynamic-export=true")));
    }
    let single = matches!(place, "socket-fd" | "command");
    let shared = params.switch("shared")?.unwrap_or(single);
    if dynamic && shared {
        return Err(own(NbdError::Together(
            "shared=true, command or socket-fd",
            "dynamic-export=true",
        )));
    }
    if single && !shared {
        return Err(own(NbdError::Together("shared=false", place)));
    }
    let uri: Option<Uri> = params.parsed("uri", "an NBD URI", str::parse)?;
    if let Some(uri) = &uri {
        if !uri.export.is_empty() && export.is_some() {
            return Err(own(NbdError::Together("export", "a URI that names one")));
        }
        export = export.or_else(|| Some(uri.export.clone()));
    }
    let address = address(params, place, uri.as_ref())?;
    let tls = tls::tls(params, uri.as_ref(), address.as_ref())?;
    if let Some(certificates) = tls.certificates().map(Arc::clone) {
        context.lifecycle.at_reload(move || certificates.reload());
    }
    let far = match (address, place) {
        (Some(address), _) => Endpoint::At(address),
        (None, "socket-fd") => {
            let fd: RawFd = params.number("socket-fd")?.unwrap_or(-1);
            let socket = sys::inherited::connected_socket(fd);
            let socket = socket.map_err(|_| own(NbdError::NoSocket(fd)))?;
            Endpoint::Connected(Mutex::new(Some(socket)))
        }
        _ => {
            let arguments: Vec<_> = params.values("arg").collect();
            let far = Endpoint::start(params.needed("command")?, &arguments);
            far.map_err(|error| BuildError::Own(Box::new(error)))?
        }
    };
    let export = if dynamic { None } else { Some(export.unwrap_or_default()) };
    let retry = params.number("retry")?.unwrap_or(0);
    let far = Arc::new(far);
    let ends = Arc::clone(&far);
    context.lifecycle.at_exit(move || ends.end());
    let remote = Remote::new((far, tls), export, retry, shared);
    Ok(Stack::new(remote.map_err(|error| own(NbdError::Remote(error)))?))
}

/// Where the server is, if it is known by an address.
fn address(
    params: &Params<'_>,
    place: &str,
    uri: Option<&Uri>,
) -> Result<Option<Place>, BuildError> {
    Ok(match place {
        "uri" => uri.map(|uri| uri.place.clone()),
        "socket" => {
            let path = params.needed("socket")?;
            // Where the agent goes into the background, it goes to `/`.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
            Some(Place::Unix { socket: path.into_os_string().into_encoded_bytes() })
        }
        "hostname" => {
            let host = params.needed("hostname")?.to_owned();
            let port = params.parsed("port", "a port or the name of a service", port)?;
            Some(Place::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) })
        }
        "vsock" => {
            let cid = params.number("vsock")?.map_or(Cid::HOST, Cid::new);
            let port = params.number("port")?.unwrap_or_else(|| DEFAULT_PORT.into());
            Some(Place::Vsock { cid, port })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_names_and_aliases() {
        let text =
            "# ssh 1/tcp\nssh\t22/tcp # ssh2\nnbd 10809/udp\nnbd 10809/tcp disk block\nbad x/tcp\n";
        for (name, port) in [
            ("ssh", Some(22)),
            ("nbd", Some(10809)),
            ("block", Some(10809)),
            ("ssh2", None),
            ("bad", None),
            ("#", None),
        ] {
            assert_eq!(named(name, text), port, "{name}");
        }
        assert_eq!(port("10810").unwrap(), 10810);
        assert!(port("70000").is_err());
    }
}

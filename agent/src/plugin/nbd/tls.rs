//! The keys of TLS to the other server, as nbdkit-nbd-plugin(1) has them.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use nbd::{Uri, uri::Place};
use nbd_client::tls::Options;

use super::{NbdError, own};
use crate::{
    params::Params,
    remote::{Certificates, Tls},
    stack::BuildError,
};

/// What `tls=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    Require,
}

/// Reads the certificates, where TLS is asked for. `place` is where the server is, if that is known by an address.
pub(super) fn tls(
    params: &Params<'_>,
    uri: Option<&Uri>,
    place: Option<&Place>,
) -> Result<Tls, BuildError> {
    let together = |one, other| own(NbdError::Together(one, other));
    if params.value("tls-psk").is_some() {
        return Err(own(NbdError::SharedKeys));
    }
    let said =
        params.choice("tls", &["off", "on", "require"], &[Mode::Off, Mode::On, Mode::Require])?;
    let keys = ["tls-certificates", "tls-verify", "tls-hostname", "tls-username"];
    let key = keys.into_iter().find(|key| params.value(key).is_some());
    let mode = match (said, uri.is_some_and(|uri| uri.tls)) {
        (None | Some(Mode::Require), true) => Mode::Require,
        (Some(Mode::Off), true) => return Err(together("tls=off", "an nbds URI")),
        (Some(Mode::On), true) => return Err(together("tls=on", "an nbds URI")),
        // nbdkit's default.
        (None, false) if key.is_some() => Mode::On,
        (None, false) => Mode::Off,
        (Some(mode), false) => mode,
    };
    if mode == Mode::Off {
        return key.map_or(Ok(Tls::Off), |key| Err(together(key, "tls=off")));
    }
    let of_uri = uri.map(|uri| &uri.tls_options);
    let (directory, name) = (params.value("tls-certificates"), params.value("tls-hostname"));
    if directory.is_some() && of_uri.is_some_and(|options| options.certificates.is_some()) {
        return Err(together("tls-certificates", "a URI that names a directory"));
    }
    if name.is_some() && of_uri.is_some_and(|options| options.hostname.is_some()) {
        return Err(together("tls-hostname", "a URI that names one"));
    }
    let certificates = directory
        .map(Into::into)
        .or_else(|| Some(OsStr::from_bytes(of_uri?.certificates.as_deref()?).into()));
    let host = match place {
        Some(Place::Tcp { host, .. }) => Some(host.as_str()),
        _ => None,
    };
    let hostname = name.or_else(|| of_uri?.hostname.as_deref()).or(host).map(str::to_owned);
    let verify = params.switch("tls-verify")?.unwrap_or(true);
    let read = Certificates::read(Options { certificates, hostname, verify });
    let read = read.map_err(|error| own(NbdError::Tls(error)))?;
    Ok(if mode == Mode::On { Tls::On(read) } else { Tls::Require(read) })
}

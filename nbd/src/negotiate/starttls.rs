//! From plain text into TLS ("TLS support"): when a client may or must start it, and what remains of the
//! negotiation before it.

use super::{
    Offers, Tls,
    context::Selection,
    server::{Phase, Server, Step, Turn, no_data},
};
use crate::{
    Framing, Refusal,
    wire::{ClientFlags, OptionCode, ReplyCode, put_option_reply},
};

/// NBD_OPT_STARTTLS has been acknowledged. Everything that was negotiated before it is discarded, because
/// a man in the middle may have sent it.
#[derive(Debug)]
#[must_use = "the negotiation continues after the handshake"]
pub struct StartTls {
    offers: Offers,
    client: ClientFlags,
    draining: bool,
}

impl StartTls {
    /// The machine for the bytes inside TLS, after the handshake has succeeded. The client sends options at
    /// once: greeting and flags are not sent again.
    pub fn secured(self) -> Server {
        let Self { offers, client, draining } = self;
        Server {
            phase: Phase::Options,
            channel: Channel::Secure,
            offers,
            client,
            framing: Framing::Simple,
            selection: Selection::default(),
            draining,
        }
    }
}

/// How the options arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Plain,
    Secure,
}

impl Server {
    /// "FORCEDTLS mode": before TLS, only STARTTLS and ABORT are allowed.
    pub(super) fn needs_tls(&self) -> bool {
        self.channel == Channel::Plain && self.offers.tls == Tls::Require
    }

    pub(super) fn may_start_tls(&self, data: &[u8]) -> Result<(), Refusal> {
        no_data(data)?;
        match (self.channel, self.offers.tls) {
            (Channel::Secure, _) => Err(Refusal::invalid("TLS has been started already")),
            (Channel::Plain, Tls::Off) => {
                Err(Refusal::unsupported("this server has no TLS; continue without it"))
            }
            (Channel::Plain, Tls::On | Tls::Require) => Ok(()),
        }
    }

    pub(super) fn start_tls(self, out: &mut Vec<u8>) -> Turn {
        put_option_reply(OptionCode::STARTTLS, ReplyCode::ACK, out, |_| ());
        let Self { offers, client, draining, .. } = self;
        Turn::Stop(Step::StartTls(StartTls { offers, client, draining }))
    }
}

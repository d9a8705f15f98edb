//! The options about virtual machines that are served by name.

use std::path::PathBuf;

use clap::Args;
use qemu::cid::Range;

use super::Stop;
use crate::{
    listen::{Address, Given},
    machines::Machines,
};

const HEADING: &str = "Who may connect";

/// What the words say.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Words {
    /// Allow the guest of this QEMU while the machine lives, and no other client over vsock. SOCKET is
    /// a -qmp socket of it that no other program uses meanwhile. A machine without a vsock device gets
    /// one. May be given again
    #[arg(long, value_name = "SOCKET", help_heading = HEADING)]
    qmp: Vec<PathBuf>,

    /// The CID of a machine that gets its vsock device from --qmp: a number, a range, or auto
    #[arg(long, value_name = "CID[-CID]", help_heading = HEADING)]
    qmp_cid: Option<Range>,
}

impl Words {
    pub(super) fn decide(
        &self,
        listen: &[Address],
        given: &Given,
        names_cids: bool,
    ) -> Result<Machines, Stop> {
        if self.qmp.is_empty() {
            return match self.qmp_cid {
                Some(_) => Err(Stop::NoMachine),
                None => Ok(Machines::default()),
            };
        }
        let twice = |(at, socket): &(usize, &PathBuf)| self.qmp[..*at].contains(socket);
        if let Some((_, socket)) = self.qmp.iter().enumerate().find(twice) {
            return Err(Stop::SameMachine(socket.clone()));
        }
        let other = match given {
            Given::Client => Some(("-s/--single", "its one client is there already")),
            _ if names_cids => {
                Some(("--allow-cid", "over vsock the guests of --qmp come in, and no others"))
            }
            _ => None,
        };
        if let Some((other, hint)) = other {
            return Err(Stop::Together { one: "--qmp", other, hint });
        }
        // An inherited listener may be of any kind.
        let vsock = listen.iter().any(|address| matches!(address, Address::Vsock { .. }));
        if !vsock && *given == Given::Nothing {
            return Err(Stop::NoVsock);
        }
        let cids = self.qmp_cid.unwrap_or_default();
        Ok(Machines { sockets: self.qmp.clone(), cids })
    }
}

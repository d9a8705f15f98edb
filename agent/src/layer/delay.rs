//! Makes requests wait: nbdkit-delay-filter(1).

use std::{sync::Arc, time::Duration};

use super::{Entry, each};
use crate::{
    disk::{Answer, Disk, DiskError, Facts, Hold, Op, Turn, Verb},
    recipe::{Key, ParamError, Params},
};

pub(super) const ENTRY: Entry = Entry {
    name: "delay",
    about: "Make requests wait",
    keys: &[
        Key::once("rdelay", "TIME", "Delay of reads"),
        Key::once("wdelay", "TIME", "Delay of writes, and of zeroes and trims"),
    ],
    build: |params, stack, _| {
        let times = Times::parse(params)?;
        Ok(each(stack, move |below, _| Ok(Arc::new(Delay { below, times }))))
    },
};

#[derive(Debug, Clone, Copy)]
struct Times {
    read: Duration,
    write: Duration,
}

impl Times {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let time = |key| Ok(params.duration(key)?.unwrap_or_default());
        Ok(Self { read: time("rdelay")?, write: time("wdelay")? })
    }
}

#[derive(Debug)]
struct Delay {
    below: Arc<dyn Disk>,
    times: Times,
}

impl Disk for Delay {
    fn facts(&self) -> Facts {
        self.below.facts()
    }

    fn attempt(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.below.attempt(op, answer)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<(), DiskError> {
        self.below.perform(op, answer)
    }

    fn below(&self) -> Option<&dyn Disk> {
        Some(&*self.below)
    }

    fn holds(&self) -> bool {
        true
    }

    fn hold(&self, verb: Verb, range: (u64, u64)) -> Hold<'_> {
        let time = match verb {
            Verb::Read => self.times.read,
            Verb::Write | Verb::Trim | Verb::Zero => self.times.write,
            _ => Duration::ZERO,
        };
        Box::pin(async move {
            tokio::time::sleep(time).await;
            self.below.hold(verb, range).await;
        })
    }
}

//! The options about how much memory clients and memory disks may hold.

use clap::Args;
use thiserror::Error;

use crate::{
    plan::Memory,
    units::{SizeError, parse_size},
};

const HEADING: &str = "Memory";
/// The smallest limit: the largest block that clients are told of (32 MiB) must fit.
const LEAST: u64 = 34 << 20;

/// What the words say.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Words {
    /// Most memory that one connection holds in requests and replies, at least 34M
    #[arg(long, value_name = "SIZE", default_value = "128M", help_heading = HEADING)]
    memory_per_connection: String,

    /// Most memory that all connections of one tenant hold: of a machine, a CID, a user over Unix
    /// sockets, or an address (of IPv6, a /64 network)
    #[arg(long, value_name = "SIZE", default_value = "256M", help_heading = HEADING)]
    memory_per_tenant: String,

    /// Most memory that all connections hold. One tenant may have as much as is still free
    /// [default: a quarter of the memory]
    #[arg(long, value_name = "SIZE", help_heading = HEADING)]
    memory_total: Option<String>,

    /// Most memory that the disks of the plugins memory and data and the maps of the filter cow take
    /// together; beyond it writes get ENOSPC [default: half of the memory]
    #[arg(long, value_name = "SIZE", help_heading = HEADING)]
    memory_max: Option<String>,
}

/// Why the options are invalid.
#[derive(Debug, Error)]
pub(crate) enum LimitError {
    #[error("{option} '{value}'")]
    Size { option: &'static str, value: String, source: SizeError },
    #[error("{option} '{value}' is too little; write {least} or more")]
    TooLittle { option: &'static str, value: String, least: &'static str },
}

impl Words {
    pub(super) fn decide(&self) -> Result<Memory, LimitError> {
        let size = |option: &'static str, value: &String| {
            parse_size(value).map_err(|source| {
                let value = value.clone();
                LimitError::Size { option, value, source }
            })
        };
        let at_least = |option: &'static str, value: &String, bytes: u64, least: &'static str| {
            let parsed = size(option, value)?;
            if parsed < bytes {
                return Err(LimitError::TooLittle { option, value: value.clone(), least });
            }
            Ok(parsed)
        };
        let total = self.memory_total.as_ref();
        let max = self.memory_max.as_ref();
        Ok(Memory {
            connection: at_least(
                "--memory-per-connection",
                &self.memory_per_connection,
                LEAST,
                "34M",
            )?,
            tenant: at_least("--memory-per-tenant", &self.memory_per_tenant, LEAST, "34M")?,
            total: total
                .map(|total| at_least("--memory-total", total, 2 * LEAST, "68M"))
                .transpose()?,
            disks: max.map(|max| size("--memory-max", max)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        words: Words,
    }

    fn decide(words: &[&str]) -> Result<Memory, String> {
        let words = ["agent"].iter().chain(words);
        Line::try_parse_from(words).unwrap().words.decide().map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_are_read_and_too_small_ones_refused() {
        let memory = decide(&[]).unwrap();
        assert_eq!((memory.connection, memory.tenant), (128 << 20, 256 << 20));
        assert_eq!((memory.total, memory.disks), (None, None));
        let memory = decide(&["--memory-total=1G", "--memory-max=0"]).unwrap();
        assert_eq!((memory.total, memory.disks), (Some(1 << 30), Some(0)));
        for (word, part) in [
            ("--memory-per-connection=1M", "write 34M or more"),
            ("--memory-per-tenant=33M", "write 34M or more"),
            ("--memory-total=67M", "write 68M or more"),
            ("--memory-max=much", "--memory-max 'much'"),
        ] {
            let error = decide(&[word]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}

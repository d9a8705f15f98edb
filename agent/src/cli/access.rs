//! The options about who may connect, and what they mean together.

use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

use crate::{
    access::{ListError, parse_cids, parse_list},
    admission::Admission,
};

const HEADING: &str = "Who may connect";

/// What the words say.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Words {
    /// Let these in and refuse all whom neither this, --allow-cid nor --access-file names:
    /// vsock-guest[:CIDS], vsock-local, vsock-cid:N, uid:N, gid:N, pid:N, 10.0.0.0/8, ::1, anyunix
    /// and all else that --filter=ip knows; numbers may be ranges (3-9). May be given again
    #[arg(long, value_name = "RULE[,RULE...]", help_heading = HEADING)]
    allow: Vec<String>,

    /// Let the guests with these CIDs in, such as 3,5-9; in addition to --allow. May be given again
    #[arg(long, value_name = "CIDS", help_heading = HEADING)]
    allow_cid: Vec<String>,

    /// Let in whom this file names, in addition to --allow and --allow-cid. A line is a list of
    /// rules with 'allow' or 'deny' in front (allow, if neither); the first rule that names a peer
    /// decides. # starts a comment. HUP reads it again; connections that it no
    /// longer lets in are closed when their requests are done
    #[arg(long, value_name = "PATH", help_heading = HEADING)]
    access_file: Option<PathBuf>,

    /// Most connections at once, handshakes included; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = HEADING)]
    limit: u32,

    /// Most connections at once from one CID; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = HEADING)]
    limit_per_cid: u32,

    /// Most connections at once of one tenant, handshakes included: of a machine, a CID, a user over
    /// Unix sockets, an IPv4 address or an IPv6 /64 network; 0 is no limit of its own. In all there are
    /// as many as a fifth of the hard limit of open files, less some for the agent; one tenant has at
    /// most as many of them as it leaves free
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = HEADING)]
    limit_per_tenant: u32,
}

/// Why they mean nothing.
#[derive(Debug, Error)]
#[error("{option} '{value}'")]
pub struct WordsError {
    option: &'static str,
    value: String,
    source: ListError,
}

impl Words {
    /// `--allow-cid` was given.
    pub(super) fn names_cids(&self) -> bool {
        !self.allow_cid.is_empty()
    }

    pub(super) fn decide(&self) -> Result<Admission, WordsError> {
        let mut allow = Vec::new();
        for (option, lists) in [("--allow", &self.allow), ("--allow-cid", &self.allow_cid)] {
            for list in lists {
                let rules = match option {
                    "--allow" if list.is_empty() => Err(ListError::Nobody("vsock-guest,uid:0")),
                    "--allow" => parse_list(list).map_err(ListError::from),
                    _ => parse_cids(list),
                };
                let value = || list.clone();
                allow.extend(rules.map_err(|source| WordsError {
                    option,
                    value: value(),
                    source,
                })?);
            }
        }
        let given = !(self.allow.is_empty() && self.allow_cid.is_empty());
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Admission {
            allow: given.then_some(allow),
            file: self.access_file.clone(),
            limit: number(self.limit),
            limit_per_cid: number(self.limit_per_cid),
            limit_per_tenant: number(self.limit_per_tenant),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        words: Words,
    }

    fn decide(words: &[&str]) -> Result<Admission, WordsError> {
        Program::parse_from(["agent"].iter().chain(words)).words.decide()
    }

    #[test]
    fn lists_add_up() {
        assert_eq!(decide(&[]).unwrap(), Admission::default());
        let decided = decide(&[
            "--allow=uid:0,anyvsock",
            "--allow-cid=3,5-9",
            "--allow",
            "::1",
            "--allow-cid=4",
            "--limit=7",
            "--limit-per-cid=2",
            "--limit-per-tenant=9",
            "--access-file=rules",
        ])
        .unwrap();
        let rules = "uid:0,anyvsock,::1,vsock-guest:3,vsock-guest:5-9,vsock-guest:4";
        assert_eq!(decided.allow, Some(parse_list(rules).unwrap()));
        let limits = (decided.limit, decided.limit_per_cid, decided.limit_per_tenant);
        assert_eq!(limits, (7, 2, 9));
        assert_eq!(decided.file, Some("rules".into()));
    }

    #[test]
    fn a_list_that_means_nothing_is_an_error_of_its_option() {
        for word in ["--allow=", "--allow=uid", "--allow=,", "--allow-cid=", "--allow-cid=2"] {
            let error = decide(&[word]).unwrap_err();
            assert!(word.starts_with(error.option), "{word}: {error}");
        }
    }
}

//! The options about who may connect, and how they combine.

use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

use crate::access::{AccessConfig, ListError, Rule, parse_cids, parse_list};

const HEADING: &str = "Who may connect";

/// What the words say.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Words {
    /// Allow these clients, and refuse all that no --allow, --allow-cid or --access-file names:
    /// vsock-guest[:CIDS], vsock-local, vsock-cid:N, uid:N, gid:N, pid:N, 10.0.0.0/8, ::1, anyunix
    /// and all else that --filter=ip knows; numbers may be ranges (3-9). May be given again
    #[arg(long, value_name = "RULE[,RULE...]", help_heading = HEADING)]
    allow: Vec<String>,

    /// Allow the guests with these CIDs, such as 3,5-9, in addition to --allow. May be given again
    #[arg(long, value_name = "CIDS", help_heading = HEADING)]
    allow_cid: Vec<String>,

    /// Allow the clients that this file names, in addition to --allow and --allow-cid. A line is a list of
    /// rules after 'allow' or 'deny' (allow, if neither); the first rule that names a client decides. # starts a
    /// comment. HUP reads the file again, and closes connections that it no longer allows when their requests
    /// are finished
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

/// Why the options are invalid.
#[derive(Debug, Error)]
#[error("{option} '{value}'")]
pub(crate) struct WordsError {
    option: &'static str,
    value: String,
    source: ListError,
}

impl Words {
    /// Whether `--allow-cid` was given.
    pub(super) fn names_cids(&self) -> bool {
        !self.allow_cid.is_empty()
    }

    /// `None` if a tenant has no limit of its own.
    pub(super) fn connections_per_tenant(&self) -> Option<usize> {
        (self.limit_per_tenant > 0).then(|| count(self.limit_per_tenant))
    }

    pub(super) fn decide(&self) -> Result<AccessConfig, WordsError> {
        let mut allow = Vec::new();
        let options: [(_, _, fn(&str) -> _); 2] =
            [("--allow", &self.allow, parse_rules), ("--allow-cid", &self.allow_cid, parse_cids)];
        for (option, lists, parse) in options {
            for list in lists {
                let rules = parse(list);
                allow.extend(rules.map_err(|source| WordsError {
                    option,
                    value: list.clone(),
                    source,
                })?);
            }
        }
        let given = !(self.allow.is_empty() && self.allow_cid.is_empty());
        Ok(AccessConfig {
            allow: given.then_some(allow),
            file: self.access_file.clone(),
            limit: count(self.limit),
            limit_per_cid: count(self.limit_per_cid),
        })
    }
}

/// Parses a list of rules that must not be empty.
fn parse_rules(list: &str) -> Result<Vec<Rule>, ListError> {
    if list.is_empty() {
        return Err(ListError::Empty("vsock-guest,uid:0"));
    }
    Ok(parse_list(list)?)
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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

    fn parse(words: &[&str]) -> Words {
        Program::parse_from(["agent"].iter().chain(words)).words
    }

    fn decide(words: &[&str]) -> Result<AccessConfig, WordsError> {
        parse(words).decide()
    }

    #[test]
    fn lists_add_up() {
        assert_eq!(decide(&[]).unwrap(), AccessConfig::default());
        let decided = decide(&[
            "--allow=uid:0,anyvsock",
            "--allow-cid=3,5-9",
            "--allow",
            "::1",
            "--allow-cid=4",
            "--limit=7",
            "--limit-per-cid=2",
            "--access-file=rules",
        ])
        .unwrap();
        let rules = "uid:0,anyvsock,::1,vsock-guest:3,vsock-guest:5-9,vsock-guest:4";
        assert_eq!(decided.allow, Some(parse_list(rules).unwrap()));
        assert_eq!((decided.limit, decided.limit_per_cid), (7, 2));
        assert_eq!(decided.file, Some("rules".into()));
    }

    #[test]
    fn no_connections_per_tenant_are_no_limit() {
        assert_eq!(parse(&["--limit-per-tenant=9"]).connections_per_tenant(), Some(9));
        assert_eq!(parse(&["--limit-per-tenant=0"]).connections_per_tenant(), None);
    }

    #[test]
    fn an_invalid_list_is_an_error_that_names_its_option() {
        for word in ["--allow=", "--allow=uid", "--allow=,", "--allow-cid=", "--allow-cid=2"] {
            let error = decide(&[word]).unwrap_err();
            assert!(word.starts_with(error.option), "{word}: {error}");
        }
    }
}

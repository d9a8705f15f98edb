//! The questions of `info --can` and `info --is`, in nbdinfo's words. Case, hyphens, underscores
//! and spaces are ignored, and either option accepts every word.

use std::str::FromStr;

use nbd::{Framing, wire::TransmissionFlags};
use nbd_client::connect::Server;

/// A yes-or-no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Connect,
    Write,
    Tls,
    Framing(Framing),
    Flag(TransmissionFlags),
}

/// All questions and their words. The first word of each is shown in the help.
const WORDS: [(&[&str], Question); 17] = [
    (&["connect"], Question::Connect),
    (&["read"], Question::Connect),
    (&["write"], Question::Write),
    (&["flush"], Question::Flag(TransmissionFlags::SEND_FLUSH)),
    (&["fua"], Question::Flag(TransmissionFlags::SEND_FUA)),
    (&["trim"], Question::Flag(TransmissionFlags::SEND_TRIM)),
    (&["zero"], Question::Flag(TransmissionFlags::SEND_WRITE_ZEROES)),
    (&["fast-zero"], Question::Flag(TransmissionFlags::SEND_FAST_ZERO)),
    (&["cache"], Question::Flag(TransmissionFlags::SEND_CACHE)),
    (&["df"], Question::Flag(TransmissionFlags::SEND_DF)),
    (&["multi-conn"], Question::Flag(TransmissionFlags::CAN_MULTI_CONN)),
    (
        &["structured-reply", "structured", "structured-replies", "sr"],
        Question::Framing(Framing::Structured),
    ),
    (
        &["extended-headers", "extended", "extended-header", "eh"],
        Question::Framing(Framing::Extended),
    ),
    (&["block-status-payload"], Question::Flag(TransmissionFlags::BLOCK_STATUS_PAYLOAD)),
    (&["read-only"], Question::Flag(TransmissionFlags::READ_ONLY)),
    (&["rotational"], Question::Flag(TransmissionFlags::ROTATIONAL)),
    (&["tls"], Question::Tls),
];

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = |word: &str| word.to_ascii_lowercase().replace(['-', '_', ' '], "");
        let text = bare(text);
        let found = WORDS.iter().find(|(words, _)| words.iter().any(|word| bare(word) == text));
        found.map(|(_, question)| *question).ok_or_else(|| {
            let known: Vec<_> =
                WORDS.iter().filter_map(|(words, _)| words.first()).copied().collect();
            format!("nothing that can be asked; there are {}", known.join(", "))
        })
    }
}

impl Question {
    /// The answer for a server that was asked about one export.
    pub(super) fn answer(self, server: &Server) -> bool {
        let described = server.exports.first().and_then(|export| export.described.as_ref().ok());
        let flags = described.map_or(TransmissionFlags::empty(), |described| described.flags);
        match self {
            Self::Connect => true,
            Self::Write => !flags.contains(TransmissionFlags::READ_ONLY),
            Self::Tls => server.tls,
            Self::Framing(framing) => server.framing >= framing,
            Self::Flag(flag) => flags.contains(flag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_as_nbdinfo_takes_them() {
        for (word, question) in [
            ("write", Some(Question::Write)),
            ("Read_Only", Some(Question::Flag(TransmissionFlags::READ_ONLY))),
            ("multiconn", Some(Question::Flag(TransmissionFlags::CAN_MULTI_CONN))),
            ("structured replies", Some(Question::Framing(Framing::Structured))),
            ("sr", Some(Question::Framing(Framing::Structured))),
            ("fly", None),
        ] {
            assert_eq!(word.parse().ok(), question, "{word}");
        }
    }
}

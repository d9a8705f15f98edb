//! A client made of bytes, and a server's machine that answers it.
//!
//! The tests of this folder use it.

use nbd::{
    BlockSizes, Refusal,
    negotiate::{
        Ask, Context, Ending, Export, Negotiated, Offers, Purpose, Server, StartTls, Step, Tls,
    },
    wire::{OptionCode, ReplyCode, TransmissionFlags},
};

pub(crate) const SIZE: u64 = 1 << 30;
pub(crate) const FIXED: u32 = 1;
pub(crate) const NO_ZEROES: u32 = 2;

/// One reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) option: OptionCode,
    pub(crate) code: ReplyCode,
    pub(crate) data: Vec<u8>,
}

/// The state of the machine.
#[derive(Debug)]
pub(crate) enum Left {
    Open(Server),
    /// The TLS handshake comes next.
    StartTls(StartTls),
    Done(Negotiated),
    Over(Ending),
}

/// A conversation with the exports "", "disk", and the name of 4096 `n`.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) left: Option<Left>,
    /// Bytes that the machine has not consumed.
    pub(crate) pending: Vec<u8>,
    /// Bytes that the server sent and the test has not taken yet.
    pub(crate) sent: Vec<u8>,
    /// The questions that the caller was asked.
    pub(crate) asked: Vec<(Purpose, String)>,
    /// The queries of the last question.
    pub(crate) queries: Vec<String>,
}

pub(crate) fn export() -> Export {
    Export {
        size: SIZE,
        flags: TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA,
        blocks: BlockSizes::default(),
        unit: 1,
        name: Some("canonical".to_owned()),
        description: Some("a disk".to_owned()),
        contexts: vec![
            Context::with_extents("base:allocation"),
            Context::fact("x-test:serial", "x-test:serial=12ab"),
            Context::fact("x-test:run", "x-test:run=7"),
        ],
    }
}

impl Talk {
    /// The server has sent its greeting; the client has sent nothing.
    pub(crate) fn greeted() -> Self {
        Self::greeted_by(Offers::default())
    }

    pub(crate) fn greeted_by(offers: Offers) -> Self {
        let mut sent = Vec::new();
        let server = Server::start(offers, &mut sent);
        Self {
            left: Some(Left::Open(server)),
            pending: vec![],
            sent,
            asked: vec![],
            queries: vec![],
        }
    }

    /// The client has taken the greeting and sent its flags.
    pub(crate) fn with_flags(flags: u32) -> Self {
        Self::with_tls(flags, Tls::Off)
    }

    /// As `with_flags`, with a server in this mode of TLS.
    pub(crate) fn with_tls(flags: u32, tls: Tls) -> Self {
        let mut talk = Self::greeted_by(Offers { tls, ..Offers::default() });
        assert_eq!(talk.sent.len(), 18);
        talk.sent.clear();
        talk.say(&flags.to_be_bytes());
        talk
    }

    /// With the flags that every modern client sends.
    pub(crate) fn new() -> Self {
        Self::with_flags(FIXED | NO_ZEROES)
    }

    /// With structured replies agreed.
    pub(crate) fn structured() -> Self {
        let mut talk = Self::new();
        assert_eq!(talk.one(OptionCode::STRUCTURED_REPLY, &[]).code, ReplyCode::ACK);
        talk
    }

    /// Sends bytes, and answers the questions of the machine.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        loop {
            let server = match self.left.take() {
                Some(Left::Open(server)) => server,
                other => break self.left = other,
            };
            let (eaten, step) = server.step(&self.pending, &mut self.sent);
            self.pending.drain(..eaten);
            let (step, asked) = match step {
                Step::Ask(ask) => (self.answer(ask), true),
                other => (other, false),
            };
            self.left = Some(match step {
                Step::Feed(server) => Left::Open(server),
                Step::StartTls(start) => Left::StartTls(start),
                Step::Done(negotiated) => Left::Done(negotiated),
                Step::End(ending) => Left::Over(ending),
                Step::Ask(_) => unreachable!("an answer asks nothing"),
            });
            if !asked {
                break;
            }
        }
    }

    /// The TLS handshake has succeeded.
    pub(crate) fn secure(&mut self) {
        assert!(self.pending.is_empty() && self.sent.is_empty());
        match self.left.take() {
            Some(Left::StartTls(start)) => self.left = Some(Left::Open(start.secured())),
            other => panic!("no handshake is due: {other:?}"),
        }
    }

    fn answer(&mut self, ask: Ask) -> Step {
        match ask {
            Ask::List(list) => {
                list.answer(Ok([("", Some("a disk")), ("disk", None)]), &mut self.sent)
            }
            Ask::Export(ask) => {
                let name = ask.name().to_owned();
                self.asked.push((ask.purpose(), name.clone()));
                self.queries = ask.queries().into_iter().map(str::to_owned).collect();
                let known = ["", "disk", &*"n".repeat(4096)].contains(&&*name);
                let answer = if known { Ok(export()) } else { Err(Refusal::unknown(&name)) };
                ask.answer(answer, &mut self.sent)
            }
        }
    }

    /// Sends an option with the correct length.
    pub(crate) fn option(&mut self, option: OptionCode, data: &[u8]) {
        self.say(&option_bytes(option, u32::try_from(data.len()).unwrap()));
        self.say(data);
    }

    /// Takes all replies that were sent; the bytes must be complete replies.
    pub(crate) fn replies(&mut self) -> Vec<Reply> {
        let mut rest = &*std::mem::take(&mut self.sent);
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(be64(rest), 0x0003_e889_0455_65a9, "a reply's magic");
            let len = be32(&rest[16..]) as usize;
            replies.push(Reply {
                option: OptionCode(be32(&rest[8..])),
                code: ReplyCode(be32(&rest[12..])),
                data: rest[20..20 + len].to_vec(),
            });
            rest = &rest[20 + len..];
        }
        replies
    }

    /// Sends an option and takes its replies, which must all name it.
    pub(crate) fn all(&mut self, option: OptionCode, data: &[u8]) -> Vec<Reply> {
        self.option(option, data);
        let replies = self.replies();
        assert!(replies.iter().all(|reply| reply.option == option), "{replies:?}");
        for error in replies.iter().filter(|reply| reply.code.is_error()) {
            assert!(error.data.len() > 4, "an error without a text: {error:?}");
            assert!(str::from_utf8(&error.data).is_ok());
        }
        replies
    }

    /// Sends an option that gets exactly one reply.
    pub(crate) fn one(&mut self, option: OptionCode, data: &[u8]) -> Reply {
        let replies = self.all(option, data);
        let [reply] = <[Reply; 1]>::try_from(replies).unwrap();
        reply
    }

    /// Checks that the negotiation continues and is in step: an unknown option is answered.
    pub(crate) fn assert_in_step(&mut self) {
        assert!(self.pending.is_empty(), "{} bytes not consumed", self.pending.len());
        assert_eq!(self.one(OptionCode(0x7777), b"abc").code, ReplyCode::ERR_UNSUP);
        assert!(matches!(self.left, Some(Left::Open(_))));
    }

    pub(crate) fn done(&self) -> &Negotiated {
        match &self.left {
            Some(Left::Done(negotiated)) => negotiated,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(crate) fn ending(&self) -> &Ending {
        match &self.left {
            Some(Left::Over(ending)) => ending,
            other => panic!("not over: {other:?}"),
        }
    }

    pub(crate) fn drain(&mut self) {
        if let Some(Left::Open(server)) = &mut self.left {
            server.drain();
        }
    }
}

pub(crate) fn codes(replies: &[Reply]) -> Vec<ReplyCode> {
    replies.iter().map(|reply| reply.code).collect()
}

pub(crate) fn option_bytes(option: OptionCode, len: u32) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&option.0.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// The data of INFO and GO.
pub(crate) fn info(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut bytes = counted(name);
    bytes.extend_from_slice(&u16::try_from(kinds.len()).unwrap().to_be_bytes());
    for kind in kinds {
        bytes.extend_from_slice(&kind.to_be_bytes());
    }
    bytes
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = counted(name);
    bytes.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        bytes.extend_from_slice(&counted(query));
    }
    bytes
}

pub(crate) fn counted(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

pub(crate) fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

pub(crate) fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(bytes[..2].try_into().unwrap())
}

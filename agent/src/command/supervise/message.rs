//! Notifications of the supervised agent: what the supervisor does itself, and what its own manager is told.

/// What a datagram asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// `READY=1`
    pub(super) ready: bool,
    pub(super) store: Option<Change>,
    /// The name in `FDNAME=`.
    pub(super) name: String,
    /// `FDPOLL=0`
    pub(super) unpolled: bool,
    /// The lines for the manager of the supervisor.
    pub(super) forwarded: String,
}

/// A change of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Lines that concern the store or the process, which are the supervisor's.
const OWN: [&str; 7] =
    ["FDSTORE=", "FDSTOREREMOVE=", "FDNAME=", "FDPOLL=", "MAINPID", "BARRIER=", "NOTIFYACCESS="];

impl Message {
    /// Parses a datagram. Bytes that are not UTF-8 are replaced.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        for line in String::from_utf8_lossy(bytes).split('\n').filter(|line| !line.is_empty()) {
            match line {
                "READY=1" => message.ready = true,
                "FDSTORE=1" => message.store = Some(Change::Add),
                "FDSTOREREMOVE=1" => message.store = Some(Change::Remove),
                "FDPOLL=0" => message.unpolled = true,
                _ => {}
            }
            if let Some(name) = line.strip_prefix("FDNAME=") {
                name.clone_into(&mut message.name);
            }
            if !OWN.iter().any(|own| line.starts_with(own)) {
                if !message.forwarded.is_empty() {
                    message.forwarded.push('\n');
                }
                message.forwarded.push_str(line);
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_all_but_the_process_and_the_store() {
        let message = Message::parse(b"READY=1\nMAINPID=7\nMAINPIDFDID=1\nSTATUS=a=b\n");
        assert!(message.ready && message.store.is_none());
        assert_eq!(message.forwarded, "READY=1\nSTATUS=a=b");
        let message = Message::parse(b"FDSTORE=1\nFDNAME=a\nFDPOLL=0");
        let name = "a".to_owned();
        let store = Some(Change::Add);
        assert_eq!(message, Message { store, name, unpolled: true, ..Message::default() });
        let message = Message::parse(b"FDSTOREREMOVE=1\nFDNAME=\xff");
        assert_eq!((message.store, message.name.as_str()), (Some(Change::Remove), "\u{fffd}"));
        assert_eq!(Message::parse(b""), Message::default());
        assert_eq!(
            Message::parse(b"READY=0"),
            Message { forwarded: "READY=0".into(), ..Message::default() }
        );
    }
}

//! The life of a machine, from the events of its QEMU.
//!
//! The agent's leases and `agent qemu watch` follow it. The end of the QMP connection counts as the end of the
//! machine, since nothing is known of the machine afterwards. Nothing that was granted to the machine may outlast
//! the connection.

use qapi::qmp;

use crate::{
    qmp::{Client, Error, Event, Heard},
    text::Text,
};

/// Something that happened to a machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Happening {
    /// The guest has ended. The process of QEMU may go on, with `-no-shutdown`.
    Shutdown(Cause),
    /// The guest starts again. Its connections and its state are gone.
    Reset(Cause),
    /// The guest was asked to shut down.
    Powerdown,
    /// The machine's processors have been stopped.
    Stopped,
    /// The machine's processors run again.
    Resumed,
    /// A device was removed from the machine.
    DeviceDeleted {
        /// The device's id, if it had one.
        id: Option<Text>,
        /// The device's path in QEMU's tree of objects.
        path: Text,
    },
    /// This many events were lost. They may have been of any kind.
    Lost(u64),
    /// An event of another kind.
    Other(Event),
}

/// Why a guest ended or restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Whether the guest did it itself.
    pub guest: bool,
    /// QEMU's reason, such as `guest-shutdown`, `host-qmp-quit`, `host-signal`.
    pub reason: Text,
}

/// The events of a machine's QMP connection.
#[derive(Debug)]
pub struct Life {
    client: Client,
}

impl Life {
    /// Follows the machine of this connection.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The connection, for commands between events. Events that arrive during a command are kept.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Waits for the next event. The future may be dropped without losing an event.
    ///
    /// # Errors
    /// The connection has ended or broken; it returns no event after an error.
    pub async fn next(&mut self) -> Result<Happening, Error> {
        self.client.event().await.map(Happening::from)
    }
}

impl From<Heard> for Happening {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Event(event) => event.into(),
            Heard::Lost(count) => Self::Lost(count),
        }
    }
}

impl From<Event> for Happening {
    /// The event's name decides. A newer QEMU may send data of another form, and the event still counts.
    fn from(event: Event) -> Self {
        match event.name.as_str() {
            "SHUTDOWN" => Self::Shutdown(cause(&event)),
            "RESET" => Self::Reset(cause(&event)),
            "POWERDOWN" => Self::Powerdown,
            "STOP" => Self::Stopped,
            "RESUME" => Self::Resumed,
            "DEVICE_DELETED" => match event.parse::<qmp::DEVICE_DELETED>() {
                Some(data) => {
                    Self::DeviceDeleted { id: data.device.map(Text::from), path: data.path.into() }
                }
                // It may have been any device's.
                None => Self::Lost(1),
            },
            _ => Self::Other(event),
        }
    }
}

/// QEMU may add reasons, so any text is one.
fn cause(event: &Event) -> Cause {
    let data: serde_json::Value = event.parse().unwrap_or_default();
    let guest = data["guest"].as_bool().unwrap_or_default();
    Cause { guest, reason: data["reason"].as_str().unwrap_or("unknown").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::{Message, decode};

    fn happening(line: &str) -> Happening {
        match decode(line.as_bytes()) {
            Ok(Message::Event(event)) => event.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shutdown_and_reset_count_whatever_their_data() {
        for (data, guest, reason) in [
            (r#", "data": {"guest": true, "reason": "guest-shutdown"}"#, true, "guest-shutdown"),
            (
                r#", "data": {"guest": false, "reason": "by-a-newer-qemu", "more": []}"#,
                false,
                "by-a-newer-qemu",
            ),
            (r#", "data": {"guest": 7, "reason": {}}"#, false, "unknown"),
            (r#", "data": []"#, false, "unknown"),
            ("", false, "unknown"),
        ] {
            let expected = Cause { guest, reason: reason.into() };
            for name in ["SHUTDOWN", "RESET"] {
                let (Happening::Shutdown(cause) | Happening::Reset(cause)) =
                    happening(&format!(r#"{{"event": "{name}"{data}}}"#))
                else {
                    panic!("{data}")
                };
                assert_eq!(cause, expected);
            }
        }
    }

    #[test]
    fn each_other_event_has_its_own_happening() {
        assert!(matches!(happening(r#"{"event": "POWERDOWN"}"#), Happening::Powerdown));
        assert!(matches!(happening(r#"{"event": "STOP"}"#), Happening::Stopped));
        assert!(matches!(happening(r#"{"event": "RESUME"}"#), Happening::Resumed));
        assert!(matches!(happening(r#"{"event": "NEWER"}"#), Happening::Other(_)));
        let deleted = r#"{"event": "DEVICE_DELETED", "data": {"device": "v", "path": "/p"}}"#;
        let Happening::DeviceDeleted { id, path } = happening(deleted) else { panic!() };
        assert_eq!((id, path), (Some("v".into()), "/p".into()));
        let unknown = r#"{"event": "DEVICE_DELETED", "data": 7}"#;
        assert!(matches!(happening(unknown), Happening::Lost(1)));
    }
}

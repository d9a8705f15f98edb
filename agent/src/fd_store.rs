//! The service manager's store of descriptors: what has to outlive this process is kept there by name, and the next
//! process gets it back at its start (`FDSTORE=1` of sd_notify(3), LISTEN_FDNAMES of sd_listen_fds(3)).
//!
//! `listen` keeps listening sockets and the descriptors of VMs. A store is there when the manager says so in FDSTORE.
//! The manager holds an open file once whatever its names, and removing a name removes all descriptors of that name.

use std::{
    fmt::Write,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process,
    },
    sync::Arc,
};

use nix::sys::socket::{SockaddrStorage, getpeername};

use crate::sys::{inherited, manager::Manager, poll};

/// Begins every name that this program gives. Descriptors with other names are ordinary socket activation: those of a
/// socket unit have its name, such as agent.socket.
pub(crate) const PREFIX: &str = "agent.kept.";
/// Maximum length of a name in bytes (FDNAME= of sd_notify(3)).
const NAME_MAX: usize = 255;
/// Maximum length in bytes of a part of a name that is made from an address, so that a name has room for two more parts.
const PART_MAX: usize = 160;
/// Bytes of a part that stay readable where the rest is replaced by a hash.
const READABLE: usize = 96;

/// The variable in which `agent supervise` tells the agent its own process. Under systemd there is none.
pub(crate) const SUPERVISOR: &str = "AGENT_SUPERVISOR";

/// The store, or none.
#[derive(Debug, Clone, Default)]
pub(crate) struct FdStore(Option<Arc<Manager>>);

/// The descriptors that earlier processes kept, as far as this process has not taken them yet.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    has_store: bool,
    /// The supervisor's process.
    supervisor: Option<u32>,
    store: FdStore,
    /// By their names without `PREFIX`.
    files: Vec<(String, OwnedFd)>,
}

impl FdStore {
    /// Whether anything can be kept.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps a descriptor. Without a store this does nothing.
    ///
    /// # Errors
    /// The manager has gone, or does not receive. A full store is not reported: the manager logs it.
    pub(crate) fn keep(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        let Some(manager) = &self.0 else { return Ok(()) };
        if !is_name(name) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The manager drops a descriptor that reports an error or a hangup. For a connection that is right: its peer
        // has gone. Other descriptors may report one at any time.
        let connected = getpeername::<SockaddrStorage>(file.as_raw_fd()).is_ok();
        let poll = if connected { "" } else { "\nFDPOLL=0" };
        manager.send(&format!("FDSTORE=1\nFDNAME={PREFIX}{name}{poll}"), Some(file))
    }

    /// Removes all descriptors of this name from the store.
    pub(crate) fn forget(&self, name: &str) {
        let Some(manager) = &self.0 else { return };
        if let Err(error) = manager.send(&format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}"), None) {
            tracing::debug!("the service manager still keeps {name}: {error}");
        }
    }
}

impl Kept {
    /// The descriptors `files` that came from a store. Call it before a thread is started.
    pub(crate) fn new(files: Vec<(String, OwnedFd)>) -> Self {
        let variables = inherited::take_variables(["FDSTORE", SUPERVISOR]);
        let [most, supervisor] = variables.map(|text| text?.to_str()?.parse::<u32>().ok());
        // A manager that has just handed over kept descriptors has a store.
        let has_store = most > Some(0) || !files.is_empty();
        Self { has_store, supervisor, store: FdStore::default(), files }
    }

    /// Connects to the manager, if it has a store. Call it on the runtime: a task logs the end of a supervisor.
    pub(crate) fn connect(mut self) -> Self {
        if let Some(supervisor) = self.supervisor {
            tokio::spawn(follow(supervisor));
        }
        let manager = self.has_store.then(Manager::from_environment).transpose();
        match manager {
            Ok(manager) => self.store = FdStore(manager.flatten().map(Arc::new)),
            Err(error) => tracing::warn!(
                "nothing is kept for the process after this one: cannot connect to NOTIFY_SOCKET: \
                 {error}"
            ),
        }
        self
    }

    /// The store of the manager that started this process.
    pub(crate) fn store(&self) -> &FdStore {
        &self.store
    }

    /// The descriptors whose names begin with `prefix`, and the rest of each name.
    pub(crate) fn take(&mut self, prefix: &str) -> Vec<(String, OwnedFd)> {
        let taken = self.files.extract_if(.., |(name, _)| name.starts_with(prefix));
        taken.map(|(name, file)| (name[prefix.len()..].to_owned(), file)).collect()
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Gives back a descriptor that `take` has returned.
    pub(crate) fn put_back(&mut self, name: String, file: OwnedFd) {
        self.files.push((name, file));
    }

    /// Closes and forgets what nothing has taken.
    pub(crate) fn finish(self) {
        let Self { store, files, .. } = self;
        let mut names: Vec<_> = files.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return;
        }
        for name in &names {
            store.forget(name);
        }
        tracing::info!(
            "closed what an earlier process kept and this command line does not name: {}",
            names.join(", ")
        );
    }
}

/// Logs when the supervisor has ended.
async fn follow(supervisor: u32) {
    // Another process with its number is not the parent of this one.
    let end = process::parent_id() == supervisor;
    let end = end.then(|| poll::process(supervisor).and_then(poll::readable));
    match end {
        Some(Ok(end)) => drop(end.readable().await),
        Some(Err(error)) => {
            tracing::debug!("the supervisor's end will not be seen: {error}");
            return;
        }
        None => {}
    }
    tracing::warn!(
        "the supervisor (process {supervisor}) has ended; this agent goes on, but nothing starts it \
         again, and its sockets and VMs end with it; start 'agent supervise' anew when that suits"
    );
}

/// A store from which nothing came back.
impl From<FdStore> for Kept {
    fn from(store: FdStore) -> Self {
        Self { store, ..Self::default() }
    }
}

/// Whether the manager takes the name.
fn is_name(name: &str) -> bool {
    PREFIX.len() + name.len() <= NAME_MAX
        && name.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b':')
}

/// A part of a name from any text, the same for the same text. Letters, digits, `/`, `-` and `_` stay, so that `.` can
/// separate the parts. Other bytes are percent-encoded. The end of a long text is replaced by a hash of the whole text.
pub(crate) fn name_part(text: &[u8]) -> String {
    let mut part = String::new();
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"/-_".contains(&byte) {
            part.push(byte.into());
        } else {
            write!(part, "%{byte:02X}").expect("a String takes all");
        }
    }
    if part.len() > PART_MAX {
        part.truncate(READABLE);
        write!(part, "~{:032x}", hash(text)).expect("a String takes all");
    }
    part
}

/// FNV-1a of 128 bits. Names are made from the command line: nobody looks for collisions.
fn hash(text: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.iter().fold(BASIS, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSliceMut,
        os::{
            fd::AsFd,
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
        },
    };

    use nix::sys::socket::{MsgFlags, UnixAddr, recvmsg};

    use super::*;

    #[test]
    fn a_socket_with_the_name_of_its_unit_is_ordinary_socket_activation() {
        for unit in ["agent.socket", "agent@guest7.socket", "nbd-agent.socket"] {
            assert!(!unit.starts_with(PREFIX), "{unit}");
        }
    }

    #[test]
    fn any_text_makes_a_part_of_a_name() {
        assert_eq!(name_part(b"unix:/run/a-b_c.d"), "unix%3A/run/a-b_c%2Ed");
        assert_eq!(name_part(b"\n\xff%"), "%0A%FF%25");
        let long = [b':'; 107];
        let part = name_part(&long);
        assert_eq!(part.len(), READABLE + 1 + 32);
        assert_ne!(part, name_part(&long[..106]));
        for text in [&b""[..], b"a b", b"\0", &[0xff; 300]] {
            assert!(is_name(&format!(
                "listen.{}.18446744073709551615.18446744073709551615",
                name_part(text)
            )));
        }
        for wrong in ["a:b", "a\nb", "\u{e9}", &"x".repeat(250)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn descriptors_are_taken_by_the_beginnings_of_their_names() {
        let file = || OwnedFd::from(UnixDatagram::unbound().unwrap());
        let files = ["vm.a.record", "vm.ab.vmm", "vm.a.1", "listen.x"];
        let files = files.map(|name| (name.to_owned(), file())).into();
        let mut kept = Kept { files, ..Kept::default() };
        let names = |taken: Vec<(String, OwnedFd)>| -> Vec<String> {
            taken.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(kept.take("vm.a.")), ["record", "1"]);
        assert_eq!(names(kept.take("vm.a.")), [""; 0]);
        assert_eq!(names(kept.take("")), ["vm.ab.vmm", "listen.x"]);
    }

    #[test]
    fn the_manager_gets_the_descriptor_and_its_name() {
        let name = format!("agent-store-{}", std::process::id());
        let place = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&place).unwrap();
        let to_manager = UnixDatagram::unbound().unwrap();
        to_manager.connect_addr(&place).unwrap();
        let store = FdStore(Some(Arc::new(Manager::from(to_manager))));
        let hears = || {
            let (mut bytes, mut control) = ([0; 256], nix::cmsg_space!([i32; 4]));
            let mut into = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg::<UnixAddr>(
                manager.as_raw_fd(),
                &mut into,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            );
            let received = received.unwrap();
            let (len, files) = (received.bytes, received.cmsgs().unwrap().count());
            (String::from_utf8(bytes[..len].to_vec()).unwrap(), files)
        };
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        store.keep("listen.x", listener.as_fd()).unwrap();
        assert_eq!(hears(), ("FDSTORE=1\nFDNAME=agent.kept.listen.x\nFDPOLL=0".into(), 1));
        let (connected, _peer) = UnixStream::pair().unwrap();
        store.keep("vm.x.vmm", connected.as_fd()).unwrap();
        assert_eq!(hears(), ("FDSTORE=1\nFDNAME=agent.kept.vm.x.vmm".into(), 1));
        store.forget("listen.x");
        assert_eq!(hears(), ("FDSTOREREMOVE=1\nFDNAME=agent.kept.listen.x".into(), 0));
        assert!(store.keep("a:b", connected.as_fd()).is_err());
        FdStore::default().keep("a:b", connected.as_fd()).unwrap();
    }
}

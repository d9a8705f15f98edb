//! As much of a vhost-user back-end as QEMU needs to start a vsock device.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
};

/// Requests of QEMU, by number (QEMU's document "Vhost-user Protocol").
const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_CONFIG: u32 = 24;
/// VIRTIO_F_VERSION_1 and VHOST_USER_F_PROTOCOL_FEATURES.
const FEATURES: u64 = 1 << 32 | 1 << 30;
/// VHOST_USER_PROTOCOL_F_CONFIG.
const PROTOCOL_FEATURES: u64 = 1 << 9;
/// The flags of a reply: the protocol's version and the reply bit.
const REPLY: u32 = 1 | 1 << 2;

/// A back-end on a Unix socket. It serves any number of QEMUs.
#[derive(Debug)]
pub struct VhostUser {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl VhostUser {
    /// Starts it.
    pub fn serve() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("QEMU");
                thread::spawn(move || while answer(&mut stream).is_some() {});
            }
        });
        Self { path, _dir: dir }
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// QEMU's arguments for the chardev `vsock`.
    pub fn arguments(&self) -> Vec<String> {
        let chardev = format!("socket,id=vsock,path={}", self.path.display());
        ["-chardev", &chardev].map(str::to_owned).into()
    }
}

/// Answers one request. `None`: QEMU has closed.
fn answer(stream: &mut UnixStream) -> Option<()> {
    let mut header = [0; 12];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let (request, size) = (word(0), word(8));
    let mut body = vec![0; size as usize];
    stream.read_exact(&mut body).ok()?;
    let reply: Vec<u8> = match request {
        GET_FEATURES => FEATURES.to_ne_bytes().into(),
        GET_PROTOCOL_FEATURES => PROTOCOL_FEATURES.to_ne_bytes().into(),
        // Unchanged: offset, size, flags and room for the CID.
        GET_CONFIG => body,
        _ => return Some(()),
    };
    let length = u32::try_from(reply.len()).expect("short");
    let words = [request, REPLY, length].map(u32::to_ne_bytes).concat();
    stream.write_all(&[words, reply].concat()).ok()
}

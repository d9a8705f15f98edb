//! Disks that a command makes for a client, and the space that they may take together. `tmpdisk` and `ondemand` use it.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use crate::{
    exports::OpenError,
    params::{Key, Params},
    shell::{self, Turn as Permission},
    stack::BuildError,
};
use disk::{Answer, Disk, DiskError, DiskInfo, FileDisk, Identity, Kind, Layer, Op, Turn, Verb};

pub(super) const TYPE: Key =
    Key::once("type", "FS", "The filesystem, as mkfs(8) -t [default: ext4]");
pub(super) const LABEL: Key = Key::once("label", "LABEL", "The filesystem's label");
pub(super) const COMMAND: Key = Key::once(
    "command",
    "COMMAND",
    "Shell command instead of mkfs; it makes \"$disk\" of $size bytes",
);
pub(super) const MAX_TOTAL: Key =
    Key::once("max-total", "SIZE", "Most bytes of all disks together; a further disk is refused");
pub(super) const VARIABLE: Key =
    Key::free("VAR", "VALUE", "Any other name: a variable of the command");

/// The default command. The option for the label differs between the mkfs programs.
const MKFS: &str = r#"
set -e
option=-L force=
case "$type" in
    ext?)       force=-F ;;
    *fat|msdos) force=-I option=-n ;;
    ntfs)       force='-Q -F' ;;
    xfs|btrfs)  force=-f ;;
esac
truncate -s "$size" "$disk"
PATH="$PATH:/usr/sbin:/sbin"
mkfs -t "$type" $force ${label:+"$option" "$label"} "$disk"
"#;

/// Why a client gets no disk.
#[derive(Debug, Error)]
pub(super) enum MadeError {
    /// With the end of the command, and what it printed.
    #[error("the command that makes the disk: {0}")]
    Command(String),
    #[error("max-total={most}: there is no room for {size} bytes more")]
    NoRoom { most: u64, size: u64 },
    #[error("{0}: the filesystem is locked by another client")]
    Locked(String),
}

/// Makes disks.
#[derive(Debug)]
pub(super) struct Maker {
    size: u64,
    command: String,
    /// `$type`, `$label`, and the other variables that were given.
    variables: Vec<(String, String)>,
    room: Room,
}

impl Maker {
    pub(super) fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let size = params.needed_size("size")?;
        if i64::try_from(size).is_err() {
            let text = params.needed("size")?;
            return Err(params.wrong("size", text, "a size", "it is more than 2^63 - 1").into());
        }
        let word = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut variables = vec![
            word("type", params.value("type").unwrap_or("ext4")),
            word("label", params.value("label").unwrap_or_default()),
        ];
        variables.extend(params.free().map(|(name, value)| word(name, value)));
        let room = Room { most: params.size("max-total")?, taken: Arc::default() };
        if room.most.is_some_and(|most| most < size) {
            let text = params.needed("max-total")?;
            let hint = "not one disk of size= fits; make it larger";
            return Err(params.wrong("max-total", text, "enough", hint).into());
        }
        let command = params.value("command").unwrap_or(MKFS).to_owned();
        Ok(Self { size, command, variables, room })
    }

    /// Reserves space for one more disk, beside `others` bytes that are not counted here.
    pub(super) fn reserve(&self, others: u64) -> Result<Place, OpenError> {
        self.room.reserve(self.size, others)
    }

    /// Runs the command that makes `disk`. Returns `held`, or drops it after the command has ended.
    pub(super) async fn make<H>(
        &self,
        permission: &Permission,
        disk: &Path,
        held: H,
    ) -> Result<H, OpenError>
    where
        H: Send + 'static,
    {
        let mut command = shell::command(&self.command);
        // The values go into the environment, never into the command, because a client may have named the disk.
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("size", self.size.to_string()).env("disk", disk);
        let (ran, held) = permission.run(command, held).await.map_err(failed)?;
        if ran.status.success() {
            return Ok(held);
        }
        Err(failed(io::Error::other(MadeError::Command(ran.why()))))
    }
}

/// The space that disks take together, in bytes.
#[derive(Debug)]
struct Room {
    most: Option<u64>,
    taken: Arc<Mutex<u128>>,
}

impl Room {
    fn reserve(&self, size: u64, others: u64) -> Result<Place, OpenError> {
        let mut place = Place { most: self.most, size: 0, taken: Arc::clone(&self.taken) };
        place.resize(size, others)?;
        Ok(place)
    }
}

/// The space of one disk. It is given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    most: Option<u64>,
    size: u64,
    taken: Arc<Mutex<u128>>,
}

impl Place {
    /// Changes the size of the disk, because a command may make a disk of another size.
    pub(super) fn resize(&mut self, size: u64, others: u64) -> Result<(), OpenError> {
        let mut taken = lock(&self.taken);
        let all = *taken - u128::from(self.size) + u128::from(size);
        if let Some(most) = self.most
            && all + u128::from(others) > u128::from(most)
        {
            return Err(refused(Kind::NoSpace, MadeError::NoRoom { most, size }));
        }
        *taken = all;
        self.size = size;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *lock(&self.taken) -= u128::from(self.size);
    }
}

fn lock(taken: &Mutex<u128>) -> MutexGuard<'_, u128> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for a client that gets no disk. `why` is logged.
pub(super) fn refused(kind: Kind, why: MadeError) -> OpenError {
    let source = Some(io::Error::other(why));
    OpenError::Failed(DiskError { source, ..DiskError::new(kind, Verb::Open, (0, 0)) })
}

pub(super) fn failed(error: io::Error) -> OpenError {
    OpenError::Failed(DiskError::from_io(Verb::Open, (0, 0), error))
}

/// The disk of one connection, and what is held for it.
#[derive(Debug)]
pub(super) struct Made<H> {
    disk: FileDisk,
    identity: Option<Identity>,
    ephemeral: bool,
    /// The space of the disk and the lock on it. Dropped after the disk.
    _held: H,
}

impl<H> Made<H> {
    /// A disk that is kept for a client that comes back.
    pub(super) fn new(disk: FileDisk, held: H) -> Self {
        let identity = disk.info().identity;
        Self { disk, identity, ephemeral: false, _held: held }
    }

    /// A disk that ends with its connection. Its identity is fresh, because the inode of its file may be used again.
    pub(super) fn for_once(disk: FileDisk, held: H) -> Self {
        Self { disk, identity: Some(Identity::fresh()), ephemeral: true, _held: held }
    }
}

impl<H: Send + Sync + std::fmt::Debug> Layer for Made<H> {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn info(&self) -> DiskInfo {
        // No second connection sees the same disk.
        let (identity, ephemeral) = (self.identity, self.ephemeral);
        DiskInfo { multi_conn: false, identity, ephemeral, ..self.disk.info() }
    }

    // No request passes, because a request in the kernel may outlive this disk and the lock on its file.
    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.disk.try_execute(op, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_reserved_up_to_the_maximum_and_given_back() {
        let room = Room { most: Some(100), taken: Arc::default() };
        let mut first = room.reserve(60, 0).unwrap();
        assert!(room.reserve(41, 0).is_err());
        assert!(room.reserve(30, 11).is_err(), "others count");
        first.resize(70, 0).unwrap();
        assert!(first.resize(101, 0).is_err());
        let second = room.reserve(30, 0).unwrap();
        drop((first, second));
        assert_eq!(*lock(&room.taken), 0);
        let boundless = Room { most: None, taken: Arc::default() };
        let _all = boundless.reserve(u64::MAX, 7).unwrap();
        let _more = boundless.reserve(u64::MAX, 7).unwrap();
    }
}

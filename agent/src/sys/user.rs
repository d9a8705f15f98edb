//! Looks up users and groups by name, and changes to them for good. No `unsafe` in here.
//!
//! `process` looks them up at start, and changes once the listeners are open.

use std::{ffi::CString, io};

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgid, getuid, initgroups, setgroups, setresgid,
    setresuid,
};

/// The user and group to change to. `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    uid: Option<Uid>,
    gid: Option<Gid>,
    /// The name of the user whose supplementary groups are taken as well.
    groups_of: Option<CString>,
}

/// Why there is no account.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotFound {
    User,
    Group,
    /// The user is a number without an entry, and no group is given.
    GroupOfUser,
}

/// Looks up names, then numbers. `Ok(None)` if neither a user nor a group is given.
pub(crate) fn find(
    user: Option<&str>,
    group: Option<&str>,
) -> io::Result<Result<Option<Account>, NotFound>> {
    if user.is_none() && group.is_none() {
        return Ok(Ok(None));
    }
    let gid = match group.map(gid).transpose()? {
        Some(None) => return Ok(Err(NotFound::Group)),
        found => found.flatten().map(Gid::from_raw),
    };
    let Some(name) = user else { return Ok(Ok(Some(Account { uid: None, gid, groups_of: None }))) };
    let entry = match (User::from_name(name)?, name.parse()) {
        (Some(entry), _) => Some(entry),
        (None, Ok(u32::MAX) | Err(_)) => return Ok(Err(NotFound::User)),
        (None, Ok(number)) => match (User::from_uid(Uid::from_raw(number))?, gid) {
            (Some(entry), _) => Some(entry),
            (None, None) => return Ok(Err(NotFound::GroupOfUser)),
            (None, Some(_)) => {
                let uid = Some(Uid::from_raw(number));
                return Ok(Ok(Some(Account { uid, gid, groups_of: None })));
            }
        },
    };
    Ok(Ok(entry.map(|entry| Account {
        uid: Some(entry.uid),
        gid: Some(gid.unwrap_or(entry.gid)),
        // A named group is the only group, as with nbdkit.
        groups_of: if gid.is_none() { CString::new(entry.name).ok() } else { None },
    })))
}

/// The number of a user, by name or number. A number needs no entry.
pub(crate) fn uid(name: &str) -> io::Result<Option<u32>> {
    let entry = User::from_name(name)?.map(|user| user.uid.as_raw());
    Ok(entry.or_else(|| number(name)))
}

/// The number of a group, by name or number. A number needs no entry.
pub(crate) fn gid(name: &str) -> io::Result<Option<u32>> {
    let entry = Group::from_name(name)?.map(|group| group.gid.as_raw());
    Ok(entry.or_else(|| number(name)))
}

/// Parses a number. (uid_t) -1 is refused: to the kernel it means "leave unchanged".
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

impl Account {
    pub(crate) fn uid(&self) -> Option<u32> {
        self.uid.map(Uid::as_raw)
    }

    pub(crate) fn gid(&self) -> Option<u32> {
        self.gid.map(Gid::as_raw)
    }

    /// Changes to the account, with no way back. Must be called while no other thread runs.
    pub(crate) fn assume(&self) -> io::Result<()> {
        if self.is_current() && !geteuid().is_root() {
            return Ok(());
        }
        if let Some(gid) = self.gid {
            match &self.groups_of {
                Some(name) => initgroups(name, gid)?,
                None => setgroups(&[gid])?,
            }
            setresgid(gid, gid, gid)?;
        }
        if let Some(uid) = self.uid {
            setresuid(uid, uid, uid)?;
        }
        Ok(())
    }

    fn is_current(&self) -> bool {
        self.uid.is_none_or(|uid| uid == getuid() && uid == geteuid())
            && self.gid.is_none_or(|gid| gid == getgid() && gid == getegid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, NotFound> {
        find(user, group).unwrap()
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(found(None, None), Ok(None));
        let root = found(Some("root"), None).unwrap().unwrap();
        assert_eq!((root.uid(), root.gid()), (Some(0), Some(0)));
        assert_eq!(root.groups_of.as_deref(), Some(c"root"));
        assert_eq!(found(Some("0"), None).unwrap().unwrap(), root, "a number with an entry");
        let strange = found(Some("4000000000"), Some("4000000001")).unwrap().unwrap();
        assert_eq!((strange.uid(), strange.gid()), (Some(4_000_000_000), Some(4_000_000_001)));
        let group = found(None, Some("root")).unwrap().unwrap();
        assert_eq!((group.uid(), group.gid(), group.groups_of), (None, Some(0), None));
        assert_eq!(found(Some("root"), Some("7")).unwrap().unwrap().groups_of, None);
        assert_eq!(
            (uid("root").unwrap(), gid("4000000000").unwrap()),
            (Some(0), Some(4_000_000_000))
        );
        assert_eq!((uid("4294967295").unwrap(), gid("no-such-group").unwrap()), (None, None));
    }

    #[test]
    fn unknown_users_and_groups_are_told_apart() {
        for (user, group, why) in [
            (Some("no-such-user"), None, NotFound::User),
            (Some(""), None, NotFound::User),
            // To the kernel (uid_t) -1 means "leave unchanged".
            (Some("4294967295"), Some("0"), NotFound::User),
            (None, Some("no-such-group"), NotFound::Group),
            (Some("root"), Some("4294967295"), NotFound::Group),
            (Some("4000000000"), None, NotFound::GroupOfUser),
        ] {
            assert_eq!(found(user, group), Err(why), "{user:?} {group:?}");
        }
    }
}

//! As whom a command runs that sfgi starts: not as root, if root only stands for the user who called `sudo sfgi`.

use crate::{
    files::Owner,
    user::{self, Entry},
};
use anyhow::{Context as _, Result, bail};
use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    process::Command,
};

/// Groups of a user: more than anybody is in.
const GROUPS: usize = 1 << 16;

/// A user of this system, with what a program is told of him.
pub(super) struct User {
    uid: u32,
    gid: u32,
    groups: Vec<libc::gid_t>,
    /// Name and home directory; `None`: the system does not know the number.
    known: Option<(CString, OsString)>,
}

impl User {
    /// The user of `--user`, else the one who called sudo; `None`: the command runs as sfgi does.
    pub(super) fn chosen(wanted: Option<&str>) -> Result<Option<User>> {
        let user = match wanted {
            Some(name) => User::find(name)?,
            None => match Owner::behind_sudo() {
                Some(owner) => User::behind_sudo(owner),
                None => return Ok(None),
            },
        };
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if own.0 != 0 && own.0 != user.uid {
            bail!("only root can run a command as another user: run sfgi with sudo, or leave out --user");
        }
        // Who is not root keeps the groups that he has.
        Ok((own.0 == 0).then_some(user))
    }

    fn find(name: &str) -> Result<User> {
        let unknown = || format!("there is no user {name}: --user takes a name or a number");
        // What cannot be looked up is as unknown.
        user::find(name).ok().flatten().map(User::of).with_context(unknown)
    }

    fn behind_sudo(owner: Owner) -> User {
        let found = user::by_uid(owner.uid).ok().flatten().map(User::of);
        // One that the system does not know has no groups but sudo's word.
        found.unwrap_or(User { uid: owner.uid, gid: owner.gid, groups: vec![owner.gid], known: None })
    }

    /// With all groups that the user is in.
    fn of(entry: Entry) -> User {
        let Entry { uid, gid, name, home } = entry;
        let mut groups = vec![0; GROUPS];
        let mut number = libc::c_int::try_from(groups.len()).unwrap_or(0);
        // SAFETY: a C string, and a place for as many groups as said.
        let answer = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut number) };
        groups.truncate(if answer < 0 { 0 } else { usize::try_from(number).unwrap_or(0) });
        User { uid, gid, groups, known: Some((name, home)) }
    }

    /// Tells the program who it runs as. `PATH` and the rest stay as they are.
    pub(super) fn tell(&self, command: &mut Command) {
        if let Some((name, home)) = &self.known {
            let name = OsStr::from_bytes(name.to_bytes());
            command.env("HOME", home).env("USER", name).env("LOGNAME", name);
        }
    }

    /// Makes this process one of that user's, for good. It makes system calls only, so that it may stand between `fork` and `exec`.
    pub(super) fn become_one(&self) -> io::Result<()> {
        // SAFETY: the groups are as many as said. Groups first: afterwards nothing may be changed any more.
        let done = unsafe {
            libc::setgroups(self.groups.len(), self.groups.as_ptr()) == 0
                && libc::setgid(self.gid) == 0
                && libc::setuid(self.uid) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        for wanted in ["root", "0"] {
            let user = User::find(wanted).unwrap();
            let (name, home) = user.known.unwrap();
            assert_eq!((user.uid, user.gid, name.to_bytes()), (0, 0, &b"root"[..]));
            assert!(!home.is_empty() && user.groups.contains(&0));
        }
        for wanted in ["no such user", "4000000000", "", "-1"] {
            let error = User::find(wanted).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("there is no user"), "{wanted}: {error}");
        }
    }

    #[test]
    fn an_unknown_user_behind_sudo_keeps_its_number() {
        let user = User::behind_sudo(Owner { uid: 4_000_000_000, gid: 7 });
        assert_eq!((user.uid, user.gid, user.groups, user.known), (4_000_000_000, 7, vec![7], None));
    }
}

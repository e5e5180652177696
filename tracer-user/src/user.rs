//! Users of this system, as its databases have them.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io, mem,
    os::unix::ffi::OsStrExt as _,
    ptr,
};

/// Bytes for the texts of an entry (`getpwnam_r`): more than any has.
const ENTRY: usize = 1 << 16;

/// The entry of a user.
pub(crate) struct Entry {
    pub(crate) uid: u32,
    /// The user's own group.
    pub(crate) gid: u32,
    pub(crate) name: CString,
    pub(crate) home: OsString,
}

/// The user with this name or number; `None`: there is none.
///
/// # Errors
/// The databases cannot be read.
pub(crate) fn find(name: &str) -> io::Result<Option<Entry>> {
    if let Ok(uid) = name.parse() {
        return by_uid(uid);
    }
    // A name with a NUL in it is nobody's.
    let Ok(name) = CString::new(name) else { return Ok(None) };
    entry(|entry, buffer, len, found| {
        // SAFETY: as `entry` promises; the name is a C string.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, len, found) }
    })
}

/// As [`find`], by number.
///
/// # Errors
/// As [`find`].
pub(crate) fn by_uid(uid: u32) -> io::Result<Option<Entry>> {
    entry(|entry, buffer, len, found| {
        // SAFETY: as `entry` promises.
        unsafe { libc::getpwuid_r(uid, entry, buffer, len, found) }
    })
}

/// Asks the databases. `ask` gets places for the entry, for its texts with their length, and for the answer.
fn entry(
    ask: impl FnOnce(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Entry>> {
    // SAFETY: zeros are an entry: null pointers and numbers.
    let mut entry: libc::passwd = unsafe { mem::zeroed() };
    let (mut texts, mut found) = (vec![0; ENTRY], ptr::null_mut());
    let result = ask(&raw mut entry, texts.as_mut_ptr(), texts.len(), &raw mut found);
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: an entry that was found has texts, which lie in `texts`.
    let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
    let home = OsStr::from_bytes(home.to_bytes()).to_owned();
    Ok(Some(Entry { uid: entry.pw_uid, gid: entry.pw_gid, name: name.to_owned(), home }))
}

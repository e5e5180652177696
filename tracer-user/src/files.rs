//! Files and folders that sfgi writes. What it read of a program is for the user who asked, and for nobody else: files have mode
//! 0600, folders 0700, and under sudo they belong to the user who called it.
//!
//! sfgi runs as root in folders where others may write (`/tmp`). A name there may be a link that somebody else has laid to a
//! file of root's, so no link is followed, and what another user owns is not written over.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// Nobody but the owner reads or writes what was read of a program.
const FILE_MODE: u32 = 0o600;
/// Names that are tried for a file that is to be renamed: one of another process with our PID in its own PID namespace may be there.
const NAMES: u32 = 100;

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Owner {
    /// The user who called sfgi by sudo; `None` where nobody did, or where root itself did.
    pub fn behind_sudo() -> Option<Owner> {
        // Only root may believe the variables: anybody can set them.
        if effective_uid() != 0 {
            return None;
        }
        let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
        let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
        (uid != 0).then_some(Owner { uid, gid })
    }
}

fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Opens a file that the user has named for writing, and empties it. It is made with mode 0600 where there is none. A device, a pipe
/// of the user's own and `/dev/stdout` are the user's own choice.
///
/// # Errors
/// It cannot be opened, is a link, or belongs to another user.
pub fn create(path: &Path) -> io::Result<File> {
    match open_existing(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create_new(path) {
            // Somebody made it in between: it is one that exists, with all that is asked of such.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(path),
            made => made,
        },
        opened => opened,
    }
}

/// Makes a file that must not exist yet, not even as a link.
///
/// # Errors
/// It exists, or cannot be made.
pub fn create_new(path: &Path) -> io::Result<File> {
    // O_EXCL follows no link (open(2)); O_NOFOLLOW says it once more.
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    // The umask may have taken bits away, which is the user's wish; it adds none.
    hand_over(&file)?;
    Ok(file)
}

/// Writes a whole file: who opens it meanwhile sees the old contents or the new ones, and no half of a file is left where sfgi is
/// killed.
///
/// # Errors
/// It cannot be written, is a link, or belongs to another user.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(metadata) if metadata.is_file() => {
            owned_by_us(metadata.uid())?;
        }
        // A device or a pipe cannot be replaced, and a link is refused there.
        Ok(_) => return create(path)?.write_all(contents),
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| refused("is no name of a file"))?;
    let (beside, mut file) = create_beside(parent, name)?;
    let written = file.write_all(contents).and_then(|()| file.sync_data());
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&beside);
    }
    renamed
}

/// Makes a new file in the folder, with a name that nothing has.
fn create_beside(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(PathBuf, File)> {
    let mut last = None;
    for number in 0..NAMES {
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.{number}.tmp", std::process::id()));
        let beside = folder.join(beside);
        match create_new(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into()))
}

/// Opens what exists, and empties it if it is a file.
fn open_existing(path: &Path) -> io::Result<File> {
    if let Some(descriptor) = own_descriptor(path) {
        // A descriptor that we hold: whatever it leads to was chosen by who started us.
        return OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(descriptor);
    }
    // Not emptied by the open: first it must be known what it is. A pipe that nobody reads keeps us here until somebody does.
    let flags = libc::O_NOFOLLOW | libc::O_NOCTTY;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path).map_err(|error| {
        // What O_NOFOLLOW answers for a link (open(2)).
        if error.raw_os_error() == Some(libc::ELOOP) {
            refused("is a link, and links are not followed: name the file itself")
        } else {
            error
        }
    })?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_char_device() {
        // Only root makes devices.
        return Ok(file);
    }
    owned_by_us(metadata.uid())?;
    if kind.is_fifo() {
        return Ok(file);
    }
    if !kind.is_file() {
        return Err(refused("is neither a file nor a pipe"));
    }
    if metadata.nlink() > 1 {
        return Err(refused("has a second name somewhere (a hard link): remove it, or choose another name"));
    }
    file.set_len(0)?;
    // What it held before may have been for everybody; this is not.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// `/dev/stdout` and its like: links to descriptors of this process, which the kernel and the distribution have laid.
fn own_descriptor(path: &Path) -> Option<PathBuf> {
    let known = ["/dev/stdin", "/dev/stdout", "/dev/stderr"];
    if let Some(number) = known.iter().position(|known| path == Path::new(known)) {
        return Some(PathBuf::from(format!("/proc/self/fd/{number}")));
    }
    let number = path.strip_prefix("/dev/fd").or_else(|_| path.strip_prefix("/proc/self/fd")).ok()?;
    let number: u32 = number.to_str()?.parse().ok()?;
    Some(PathBuf::from(format!("/proc/self/fd/{number}")))
}

/// Refuses what belongs to anybody but us and the user who called us.
fn owned_by_us(uid: u32) -> io::Result<()> {
    let ours = uid == effective_uid() || Owner::behind_sudo().is_some_and(|owner| owner.uid == uid);
    if ours {
        Ok(())
    } else {
        Err(refused(&format!("belongs to another user (uid {uid}): choose another name")))
    }
}

/// Gives a file that was just made to the user who called us by sudo.
fn hand_over(file: &File) -> io::Result<()> {
    match Owner::behind_sudo() {
        Some(owner) => fchown(file, Some(owner.uid), Some(owner.gid)),
        None => Ok(()),
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("it {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::{
        io::Read as _,
        os::unix::fs::{chown, symlink},
    };

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn why(result: io::Result<File>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new");
        create(&file).unwrap().write_all(b"abc").unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, b"abc".to_vec()));
        assert_eq!(create_new(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // One that exists is emptied, and becomes private.
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        create(&file).unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, Vec::new()));
        replace(&file, b"whole").unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, b"whole".to_vec()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link, hard) =
            (dir.path().join("victim"), dir.path().join("link"), dir.path().join("hard"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(why(create(&link)).contains("it is a link"));
        assert!(create_new(&link).is_err());
        assert!(replace(&link, b"x").unwrap_err().to_string().contains("it is a link"));
        fs::hard_link(&victim, &hard).unwrap();
        assert!(why(create(&hard)).contains("hard link"));
        // To nowhere: O_CREAT alone would make the file there.
        let nowhere = dir.path().join("nowhere");
        symlink(dir.path().join("made"), &nowhere).unwrap();
        assert!(create(&nowhere).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn what_another_user_owns_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("theirs");
        fs::write(&file, "theirs").unwrap();
        if chown(&file, Some(65_534), None).is_err() {
            // Only root can give files away.
            return;
        }
        assert!(why(create(&file)).contains("belongs to another user (uid 65534)"));
        assert!(replace(&file, b"x").is_err());
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = {
            let fifo = fifo.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        create(&fifo).unwrap().write_all(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    }

    #[test]
    fn what_is_no_file_is_the_users_own_choice() {
        create(Path::new("/dev/null")).unwrap().write_all(b"gone").unwrap();
        for (name, number) in [("/dev/stdout", "1"), ("/dev/fd/2", "2"), ("/proc/self/fd/7", "7")] {
            assert_eq!(own_descriptor(Path::new(name)).unwrap(), Path::new("/proc/self/fd").join(number));
        }
        for name in ["/dev/stdout2", "/dev/fd/../../etc/passwd", "/dev/fd", "/tmp/dev/stdout"] {
            assert_eq!(own_descriptor(Path::new(name)), None, "{name}");
        }
        assert!(create(Path::new("/tmp")).is_err());
    }
}

//! The token that requests must bring: given by the administrator, or made by the agent.

use super::AccessError;
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq as _;

/// The environment variable for the token, where a file is awkward.
pub(super) const VARIABLE: &str = "SFGI_TOKEN";

/// The folder of a token that the agent keeps where it has no store; that of the Unix socket, too.
const FOLDER: &str = "/run/sfgi";

/// The shortest token, in characters: 16 raw bytes are 128 bits; as hexadecimal they are 64.
const MIN_TOKEN: usize = 16;

/// The longest token, in bytes: it must fit into the headers of a request (`MAX_HEADERS` in `listen.rs`).
const MAX_TOKEN: u64 = 4096;

/// Random bytes of a token that the agent makes: 128 bits, 32 digits.
const RANDOM: usize = 16;

/// Who may read a file that only its owner may.
const ONLY_OWNER: u32 = 0o600;

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The administrator has given it.
    Given,
    /// The agent has made it for this run.
    Fresh,
    /// The agent keeps it in this file.
    Kept(PathBuf),
}

#[derive(Clone)]
pub(super) struct Token {
    text: Arc<str>,
    pub(super) origin: Origin,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text is left out: this may be logged.
        f.debug_tuple("Token").field(&self.origin).finish()
    }
}

impl Token {
    /// A token that the administrator has given; `place` names where.
    pub(super) fn given(text: &str, place: &str) -> Result<Token, AccessError> {
        let text = text.trim();
        let fits = text.len() >= MIN_TOKEN && text.len() as u64 <= MAX_TOKEN;
        if !fits {
            return Err(AccessError::Bad {
                place: place.to_owned(),
                shortest: MIN_TOKEN,
                longest: MAX_TOKEN,
            });
        }
        Ok(Token { text: text.into(), origin: Origin::Given })
    }

    /// The token in a file that the configuration names; where the file is missing it is made.
    pub(super) fn of_file(file: &Path) -> Result<Token, AccessError> {
        let unreadable = |error| AccessError::Unreadable { file: file.to_owned(), error };
        match read(file, 0) {
            Ok((text, mode)) => {
                let token = Token::given(&text, &file.display().to_string())?;
                if mode & 0o077 != 0 {
                    log::warn!("others than its owner may read the token: chmod 600 {}", file.display());
                }
                Ok(token)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = make(file).map_err(|error| match error.kind() {
                    // There is no folder for it either: the name is wrong.
                    io::ErrorKind::NotFound => unreadable(error),
                    _ => AccessError::Kept { file: file.to_owned(), error },
                })?;
                Ok(Token { text: text.into(), origin: Origin::Kept(file.to_owned()) })
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// A new token for this run.
    pub(super) fn fresh() -> Result<Token, AccessError> {
        let text = random().map_err(|error| AccessError::Unreadable { file: RANDOMNESS.into(), error })?;
        Ok(Token { text: text.into(), origin: Origin::Fresh })
    }

    /// The token that the agent keeps beside its store, else in [`FOLDER`], or the user's own folder of that kind where
    /// it is not root's; made where it is missing.
    pub(super) fn kept(store: Option<&Path>) -> Result<Token, AccessError> {
        let beside = store.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
        let users = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
        let other = users.map_or_else(|| PathBuf::from(FOLDER), |folder| Path::new(&folder).join("sfgi"));
        let folder = beside.unwrap_or(&other);
        let file = folder.join("token");
        let cannot = |error| AccessError::Kept { file: file.clone(), error };
        // 0755: the token is 0600, and the Unix socket beside it is to be reached by its group.
        let mode = if beside.is_some() { 0o700 } else { 0o755 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(cannot)?;
        let text = match read(&file, libc::O_NOFOLLOW) {
            Ok((_, mode)) if mode & 0o077 != 0 => {
                let error =
                    io::Error::other("others than its owner may read it; remove it, and another is made");
                return Err(cannot(error));
            }
            Ok((text, _)) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&file).map_err(cannot)?,
            Err(error) => return Err(cannot(error)),
        };
        let token = Token::given(&text, &file.display().to_string())?;
        Ok(Token { origin: Origin::Kept(file), ..token })
    }

    /// Whether this is the token, in constant time: how long a comparison takes must not tell how much of a guess is
    /// right.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        given.ct_eq(self.text.as_bytes()).into()
    }

    /// The token itself, for the address that is printed on a terminal.
    pub(super) fn reveal(&self) -> &str {
        &self.text
    }
}

/// The text of a file, of a regular one only, and its mode. It belongs to us or to root: whoever else has made it knows
/// the token.
fn read(file: &Path, flags: i32) -> io::Result<(String, u32)> {
    // O_NONBLOCK: a FIFO would hold the agent up before anybody could look at what it is.
    let opened = OpenOptions::new().read(true).custom_flags(flags | libc::O_NONBLOCK).open(file)?;
    let meta = opened.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    let mut text = String::new();
    opened.take(MAX_TOKEN + 1).read_to_string(&mut text)?;
    Ok((text, meta.mode()))
}

/// Puts a new token into a file that does not exist. Where another agent does the same, the token of the first holds.
fn make(file: &Path) -> io::Result<String> {
    let text = random()?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Complete before it has its name: an agent that starts at the same time must not read half of it.
    let unfinished = folder.join(format!(".token-{}-{}", std::process::id(), &text[..8]));
    let made = (|| {
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(ONLY_OWNER)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&unfinished)?;
        out.write_all(text.as_bytes())?;
        fs::hard_link(&unfinished, file)
    })();
    let _ = fs::remove_file(&unfinished);
    match made {
        Ok(()) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(read(file, libc::O_NOFOLLOW)?.0.trim().to_owned())
        }
        Err(error) => Err(error),
    }
}

const RANDOMNESS: &str = "/dev/urandom";

fn random() -> io::Result<String> {
    let mut bytes = [0; RANDOM];
    File::open(RANDOMNESS)?.read_exact(&mut bytes)?;
    let mut text = String::with_capacity(2 * RANDOM);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_token_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("state/history");
        let first = Token::kept(Some(&store)).unwrap();
        let file = folder.path().join("state/token");
        assert_eq!(first.origin, Origin::Kept(file.clone()));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path().join("state")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(first.reveal().len(), 32);
        assert!(Token::kept(Some(&store)).unwrap().is(first.reveal().as_bytes()));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "something is left");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::kept(Some(&store)).unwrap_err().to_string().contains("others than its owner"));
    }

    #[test]
    fn a_link_and_what_is_no_file_are_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("token"), folder.path().join("other"));
        fs::write(&other, "0123456789abcdef").unwrap();
        symlink(&other, &file).unwrap();
        assert!(Token::kept(Some(&folder.path().join("history"))).is_err());
        // What the administrator names may be a link: the volumes of Kubernetes are.
        assert!(Token::of_file(&file).is_ok());
        for place in ["/dev/zero", "/"] {
            assert!(
                matches!(Token::of_file(Path::new(place)), Err(AccessError::Unreadable { .. })),
                "{place}"
            );
        }
    }

    #[test]
    fn a_named_file_is_made_where_it_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine");
        let token = Token::of_file(&file).unwrap();
        assert_eq!(token.origin, Origin::Kept(file.clone()));
        assert_eq!(fs::read_to_string(&file).unwrap(), token.reveal());
        assert_eq!(Token::of_file(&file).unwrap().origin, Origin::Given);
        assert!(Token::of_file(&folder.path().join("no/folder")).is_err());
    }
}

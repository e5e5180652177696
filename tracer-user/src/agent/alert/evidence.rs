//! A directory of evidence with bounds: a file more than it may hold pushes out the oldest.

use crate::agent::config;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Where evidence is kept.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    directory: PathBuf,
    max_files: usize,
    max_size: u64,
}

/// What files of ours are called: nothing else in the directory is ever removed.
const PREFIX: &str = "sfgi-";

impl Evidence {
    /// As configured; `None`: none is kept.
    pub(super) fn of(config: &config::Evidence) -> Option<Evidence> {
        let directory = config.directory.clone()?;
        Some(Evidence { directory, max_files: config.max_files, max_size: config.max_size })
    }

    /// Makes room for one more file and names it. The service's name comes from outside: nothing of it but letters, digits and
    /// dashes gets into the path.
    pub(super) fn make_room(
        &self,
        service: &str,
        pid: u32,
        unix_s: u64,
        extension: &str,
    ) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.directory)?;
        self.shrink(1)?;
        let tame = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let service: String = service.chars().take(64).map(tame).collect();
        Ok(self.directory.join(format!("{PREFIX}{service}-{pid}-{unix_s}.{extension}")))
    }

    /// Removes the oldest files until what is there and `more` files hold the bounds.
    pub(super) fn shrink(&self, more: usize) -> io::Result<()> {
        let mut files = self.files()?;
        files.sort();
        let mut size: u64 = files.iter().map(|(_, size, _)| size).sum();
        let mut count = files.len();
        for (_, bytes, path) in files {
            if count + more <= self.max_files.max(more) && size <= self.max_size {
                break;
            }
            remove(&path)?;
            size -= bytes;
            count -= 1;
        }
        Ok(())
    }

    fn files(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            // It may have been removed by someone meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() {
                files.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        Ok(files)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_go_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let evidence = Evidence { directory: directory.path().into(), max_files: 3, max_size: 250 };
        let foreign = directory.path().join("notes.txt");
        fs::write(&foreign, [0; 1000]).unwrap();
        let mut paths = Vec::new();
        for at in 0..5 {
            let path = evidence.make_room("../../etc/shop", 7, at, "txt").unwrap();
            assert_eq!(path.parent(), Some(directory.path()), "{path:?}");
            fs::write(&path, [0; 50]).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
            paths.push(path);
        }
        assert_eq!(
            paths.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
        fs::write(&paths[4], [0; 200]).unwrap();
        evidence.shrink(0).unwrap();
        assert_eq!(
            paths.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        assert!(foreign.exists());
    }
}

//! Files that commands read or write as a whole: regular files only.
//!
//! A path from the command line may lead to a device, a pipe or a socket. Opening one may block for
//! ever; replacing one would take it from the whole machine. So these functions check the file type
//! before they act, and once more on the file that they opened or replaced: another process may have
//! exchanged it in between.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use tempfile::NamedTempFile;

use crate::model::{Context, Error, Result};
use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, LOCK_FILE, OWNER_FILE, STORE_ID_FILE};
use crate::store::dir::scratch::ScratchFolder;

/// Opens a regular file for reading. Follows symbolic links.
///
/// # Errors
/// `NotFound` if there is no file, `InvalidArgument` if it is not a regular file.
pub(crate) fn open_to_read(path: &Path) -> Result<File> {
    let failed = |e| open_failed(path, e);
    // Checked before opening: opening a device can already have an effect.
    require_regular(path, path.metadata().map_err(failed)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits());
    let file = options.open(path).map_err(failed)?;
    require_regular(path, file.metadata().map_err(failed)?.file_type())?;
    Ok(file)
}

/// Reads the text of a regular file of at most `max` bytes; `None` if there is no file.
///
/// # Errors
/// `InvalidArgument` if the file is longer than `max` or is not UTF-8.
pub(crate) fn read_text(path: &Path, max: u64) -> Result<Option<(File, String)>> {
    let mut file = match open_to_read(path) {
        Err(Error::NotFound(_)) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    let read = Read::by_ref(&mut file).take(max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| open_failed(path, e))?;
    if bytes.len() as u64 > max {
        return Err(Error::InvalidArgument(format!(
            "{} is longer than {max} bytes: name another file",
            path.display()
        )));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let before = e.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::InvalidArgument(format!(
            "{}, line {line}: the text is not UTF-8: save it as UTF-8",
            path.display()
        ))
    })?;
    Ok(Some((file, text)))
}

/// Creates a file with mode 0600; fails if the path exists.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Refuses a path that [`put`] would refuse, so that a command can fail before it works.
pub(crate) fn check_target(path: &Path, replace: bool) -> Result<()> {
    if is_of_store(path) {
        return Err(Error::InvalidArgument(format!(
            "{} is a file of the store in that folder: give another name",
            path.display()
        )));
    }
    match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
        Ok(found) => {
            require_regular(path, found.file_type())?;
            if replace { Ok(()) } else { Err(already_exists(path)) }
        }
    }
}

/// Returns true if the path is that of a file which a store has, in a folder that holds a store.
fn is_of_store(path: &Path) -> bool {
    let names = [DATA_FILE, LOCK_FILE, OWNER_FILE, JOURNAL_FILE, STORE_ID_FILE];
    let folder = folder_of(path);
    path.file_name().is_some_and(|name| names.iter().any(|of_store| name == *of_store))
        && [OWNER_FILE, STORE_ID_FILE].iter().any(|file| folder.join(file).exists())
}

/// Creates a temporary folder beside `path`, for a new file that [`put`] then moves to `path`.
pub(crate) fn scratch_beside(path: &Path) -> Result<ScratchFolder> {
    ScratchFolder::create_in(&folder_of(path))
}

/// Renames the file `new` to `path` and syncs the folder. Replaces an existing regular file only with
/// `replace`.
pub(crate) fn put(new: NamedTempFile, path: &Path, replace: bool) -> Result<()> {
    let moving = format!("moving the new file to {}", path.display());
    check_target(path, replace)?;
    let is_there = path.symlink_metadata().is_ok();
    if is_there {
        exchange(new.path(), path)?;
        // After the exchange, the new file's old name leads to the replaced file.
        let old = new.path().symlink_metadata().or_internal(&moving)?;
        if let Err(refused) = require_regular(path, old.file_type()) {
            exchange(new.path(), path)?;
            return Err(refused);
        }
        drop(new);
    } else {
        match new.persist_noclobber(path) {
            Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
                return Err(already_exists(path));
            }
            persisted => drop(persisted.map_err(|e| e.error).or_internal(&moving)?),
        }
    }
    sync_folder(&folder_of(path))
        .or_internal(format_args!("syncing the folder of {}", path.display()))
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all())
}

/// Exchanges the names of two files atomically. If the file system cannot exchange names, `new`
/// replaces `old`.
fn exchange(new: &Path, old: &Path) -> Result<()> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    let exchanged = match renameat2(AT_FDCWD, new, AT_FDCWD, old, flags) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => std::fs::rename(new, old),
        exchanged => exchanged.map_err(io::Error::from),
    };
    exchanged.or_internal(format_args!("replacing {}", old.display()))
}

/// Returns the folder that contains `file`.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn already_exists(file: &Path) -> Error {
    Error::AlreadyExists(format!(
        "{} exists already: give another name, or --force to replace it",
        file.display()
    ))
}

fn open_failed(path: &Path, e: io::Error) -> Error {
    let path = path.display();
    match e.kind() {
        ErrorKind::NotFound => Error::NotFound(format!("{path} does not exist: name another file")),
        _ => Error::InvalidArgument(format!("reading {path}: {e}")),
    }
}

fn require_regular(path: &Path, found: FileType) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "{} is {}, not a regular file: name a regular file",
        path.display(),
        describe_type(found)
    )))
}

fn describe_type(found: FileType) -> &'static str {
    match found {
        found if found.is_dir() => "a folder",
        found if found.is_symlink() => "a symbolic link",
        found if found.is_fifo() => "a pipe",
        found if found.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::{Mode, SFlag, mknod};
    use nix::unistd::mkfifo;

    /// Creates one file of each type that is not regular; returns paths and names of the types.
    fn irregular_files(dir: &Path) -> Vec<(PathBuf, &'static str)> {
        let at = |name: &str| dir.join(name);
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(at("folder")).unwrap();
        drop(UnixListener::bind(at("socket")).unwrap());
        let mut files =
            vec![(at("fifo"), "a pipe"), (at("folder"), "a folder"), (at("socket"), "a socket")];
        // The device numbers of /dev/null. Only root may create a device node.
        let null = nix::sys::stat::makedev(1, 3);
        if mknod(&at("null"), SFlag::S_IFCHR, Mode::S_IRWXU, null).is_ok() {
            files.push((at("null"), "a device"));
        }
        files
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (path, called) in irregular_files(dir.path()) {
            let link = dir.path().join("link");
            let _ = fs::remove_file(&link);
            symlink(&path, &link).unwrap();
            for path in [&path, &link] {
                let error = open_to_read(path).unwrap_err();
                let expected = format!("{} is {called}, not a regular file", path.display());
                assert!(error.message().starts_with(&expected), "{error}");
            }
        }
        let file = dir.path().join("file");
        assert!(matches!(open_to_read(&file), Err(Error::NotFound(_))));
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file, 4).unwrap().unwrap().1, "text");
        assert!(read_text(&file, 3).unwrap_err().message().contains("longer than 3 bytes"));
        fs::write(&file, b"a\n\xff").unwrap();
        assert!(read_text(&file, 9).unwrap_err().message().contains("line 2: the text is not"));
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let new = || {
            let new = NamedTempFile::new_in(dir.path()).unwrap();
            fs::write(new.path(), "new").unwrap();
            new
        };
        let mut files = irregular_files(dir.path());
        let link = dir.path().join("link");
        symlink("folder", &link).unwrap();
        files.push((link, "a symbolic link"));
        let count = fs::read_dir(dir.path()).unwrap().count();
        for (path, called) in files {
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            let error = put(new(), &path, true).unwrap_err();
            assert!(error.message().contains(&format!("is {called}, not a")), "{error}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before);
        }
        let file = dir.path().join("file");
        put(new(), &file, false).unwrap();
        assert!(matches!(put(new(), &file, false), Err(Error::AlreadyExists(_))));
        fs::write(&file, "old").unwrap();
        put(new(), &file, true).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count + 1);
    }

    #[test]
    fn no_file_of_a_store_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = [DATA_FILE, LOCK_FILE, OWNER_FILE, JOURNAL_FILE, STORE_ID_FILE];
        // A backup may have any name in other folders.
        for file in files {
            check_target(&dir.path().join(file), false).unwrap();
        }
        fs::write(dir.path().join(STORE_ID_FILE), "").unwrap();
        for file in files {
            let error = check_target(&dir.path().join(file), true).unwrap_err();
            assert!(error.message().contains("is a file of the store"), "{error}");
        }
        check_target(&dir.path().join("backup.mdb"), true).unwrap();
    }

    #[test]
    fn exchange_can_be_undone() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        fs::write(&new, "new").unwrap();
        mkfifo(&old, Mode::S_IRWXU).unwrap();
        exchange(&new, &old).unwrap();
        assert!(fs::symlink_metadata(&new).unwrap().file_type().is_fifo());
        exchange(&new, &old).unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"new");
    }
}

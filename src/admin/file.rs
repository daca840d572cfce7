//! The files that commands read and write as a whole: regular files only.
//!
//! A path that a command is given may lead to a device, a pipe or a socket: to open one may wait for
//! ever, and to put a file in the place of one takes it from the whole machine. So the type is looked
//! at before anything is done, and once more on what was opened or replaced, as it may have been
//! exchanged in between.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use tempfile::NamedTempFile;

use crate::model::{Error, Result};
use crate::store::dir::scratch::ScratchFolder;

/// Opens a regular file to read.
pub fn open_to_read(path: &Path) -> Result<File> {
    let failed = |e| open_failed(path, e);
    // A look first: to open a device can already do something.
    require_regular(path, path.metadata().map_err(failed)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits());
    let file = options.open(path).map_err(failed)?;
    require_regular(path, file.metadata().map_err(failed)?.file_type())?;
    Ok(file)
}

/// The whole text of a regular file of at most `max` bytes; nothing where there is none.
pub fn read_text(path: &Path, max: u64) -> Result<Option<(File, String)>> {
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
            "{}, line {line}: the text is not UTF-8: write it again as UTF-8",
            path.display()
        ))
    })?;
    Ok(Some((file, text)))
}

/// Makes a file that was not there, closed to others.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Refuses, before any work, a path where [`put`] could not put a file.
pub fn check_target(path: &Path, replace: bool) -> Result<()> {
    match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
        Ok(found) => {
            require_regular(path, found.file_type())?;
            if replace { Ok(()) } else { Err(already_exists(path)) }
        }
    }
}

/// A temporary folder in the folder where `path` will be, for a file that is then [`put`] there.
pub fn scratch_beside(path: &Path) -> Result<ScratchFolder> {
    ScratchFolder::create_in(&folder_of(path))
}

/// Gives the file `new` the name `path`, on disk; a regular file that has it goes if `replace`.
pub fn put(new: NamedTempFile, path: &Path, replace: bool) -> Result<()> {
    let failed =
        |e: io::Error| Error::Internal(format!("moving the new file to {}: {e}", path.display()));
    check_target(path, replace)?;
    let is_there = path.symlink_metadata().is_ok();
    if is_there {
        exchange(new.path(), path)?;
        // Under the name of the new file is what was there.
        let old = new.path().symlink_metadata().map_err(failed)?;
        if let Err(refused) = require_regular(path, old.file_type()) {
            exchange(new.path(), path)?;
            return Err(refused);
        }
        drop(new);
    } else {
        new.persist_noclobber(path).map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => already_exists(path),
            _ => failed(e.error),
        })?;
    }
    File::open(folder_of(path))
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::Internal(format!("syncing the folder of {}: {e}", path.display())))
}

/// Exchanges the names of two files at once; where the file system cannot, the first takes the place
/// of the second.
fn exchange(new: &Path, old: &Path) -> Result<()> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    let exchanged = match renameat2(AT_FDCWD, new, AT_FDCWD, old, flags) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => std::fs::rename(new, old),
        exchanged => exchanged.map_err(io::Error::from),
    };
    exchanged.map_err(|e| Error::Internal(format!("replacing {}: {e}", old.display())))
}

/// The folder a file is in, or will be.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn already_exists(file: &Path) -> Error {
    Error::AlreadyExists(format!(
        "{} is there already: give another name, or --force to replace it",
        file.display()
    ))
}

fn open_failed(path: &Path, e: io::Error) -> Error {
    let path = path.display();
    match e.kind() {
        ErrorKind::NotFound => Error::NotFound(format!("{path} is not there: name another file")),
        _ => Error::InvalidArgument(format!("reading {path}: {e}")),
    }
}

fn require_regular(path: &Path, found: FileType) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "{} is {}, and no regular file: name a regular file",
        path.display(),
        called(found)
    )))
}

fn called(found: FileType) -> &'static str {
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

    /// What is no regular file, each in the folder, with how it is called.
    fn odd(dir: &Path) -> Vec<(PathBuf, &'static str)> {
        let at = |name: &str| dir.join(name);
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(at("folder")).unwrap();
        drop(UnixListener::bind(at("socket")).unwrap());
        let mut odd =
            vec![(at("fifo"), "a pipe"), (at("folder"), "a folder"), (at("socket"), "a socket")];
        // The numbers of /dev/null; only root may make a node.
        let null = nix::sys::stat::makedev(1, 3);
        if mknod(&at("null"), SFlag::S_IFCHR, Mode::S_IRWXU, null).is_ok() {
            odd.push((at("null"), "a device"));
        }
        odd
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for (path, called) in odd(dir.path()) {
            let link = dir.path().join("link");
            let _ = fs::remove_file(&link);
            symlink(&path, &link).unwrap();
            for path in [&path, &link] {
                let told = open_to_read(path).unwrap_err();
                let expected = format!("{} is {called}, and no regular file", path.display());
                assert!(told.message().starts_with(&expected), "{told}");
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
        let mut odd = odd(dir.path());
        let link = dir.path().join("link");
        symlink("folder", &link).unwrap();
        odd.push((link, "a symbolic link"));
        let count = fs::read_dir(dir.path()).unwrap().count();
        for (path, called) in odd {
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            let told = put(new(), &path, true).unwrap_err();
            assert!(told.message().contains(&format!("is {called}, and no")), "{told}");
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
    fn what_takes_the_place_of_a_file_meanwhile_comes_back() {
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

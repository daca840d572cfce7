//! Folders and files that only their owner and root may change.
//!
//! A user with write access to the folder can replace a file by a link, and a user with write access
//! to LMDB's files can stop or mislead the daemon. So the folder must belong to the daemon's user or to
//! root, other users must not have write access, and no link in it is followed. After that check only
//! the owner and root can change the files, so there is no check-then-use race with other users.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::model::{Context, Error, Result};

const WRITE_BY_OTHERS: u32 = 0o022;

/// Mode of a folder in which each user may remove only its own files.
const STICKY: u32 = 0o1000;

/// Creates the folder with `mode` if it is missing, and returns its absolute path. The path may contain
/// links: that is the owner's choice.
///
/// # Errors
/// `FailedPrecondition` if users other than its owner and root may change the folder.
pub(crate) fn create_private(path: &Path, mode: u32) -> Result<PathBuf> {
    let given = path.display();
    let created = DirBuilder::new().recursive(true).mode(mode).create(path);
    created.or_internal(format_args!("creating the folder {given}"))?;
    let path = fs::canonicalize(path).or_internal(format_args!("opening the folder {given}"))?;
    let found = fs::metadata(&path).or_internal(format_args!("looking at the folder {given}"))?;
    let at = path.display();
    if !found.is_dir() {
        return Err(Error::failed_precondition(format_args!("{at} is no folder")));
    }
    owned(&path, &found)?;
    if found.mode() & WRITE_BY_OTHERS != 0 {
        // A sticky folder, such as /tmp, is meant for all.
        let advice = match found.mode() & STICKY {
            0 => format!("chmod go-w {at}, or choose a folder of its own"),
            _ => "choose a folder of its own".into(),
        };
        return Err(Error::failed_precondition(format_args!(
            "others may write in the folder {at} (mode {:o}), and so put files in the place of ours: {advice}",
            found.mode() & 0o7777
        )));
    }
    Ok(path)
}

/// Sets the mode of a file to 0600 if other users may read or write it. Accepts a missing file.
///
/// # Errors
/// If the path is not a regular file, or if the file belongs to another user.
pub(crate) fn tighten(path: &Path) -> Result<()> {
    let Some(found) = stat_regular(path)? else { return Ok(()) };
    owned(path, &found)?;
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .or_internal(format_args!("taking {} from others", path.display()))?;
        log::warn!(
            "{} was open to others (mode {:o}): it has mode 600 now",
            path.display(),
            found.mode() & 0o7777
        );
    }
    Ok(())
}

/// The metadata of a regular file; `None` if it is missing. Refuses a link and every other kind of file.
pub(crate) fn stat_regular(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found)),
        Ok(found) => Err(Error::failed_precondition(format_args!(
            "{} is {} and no file: move it away",
            path.display(),
            if found.is_symlink() { "a symbolic link" } else { "something else" }
        ))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(permission_error(path)),
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            Err(Error::invalid_argument(format_args!(
                "{} is not a folder: name the folder of a store",
                path.parent().unwrap_or(path).display()
            )))
        }
        Err(e) => Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
    }
}

/// Whether a path exists; a dangling link exists too. A failed check is an error and does not count as absent.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
    }
}

/// Opens a file of the store without following a link; `None` if there is none.
pub(crate) fn open_regular(path: &Path, write: bool) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(OFlag::O_NOFOLLOW.bits());
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(permission_error(path)),
        Err(e) => Err(Error::Internal(format!("opening {}: {e}", path.display()))),
    }
}

/// Waits until the bytes that were read from a file are on disk: another process may have written them without
/// a sync. On a read-only file system, no process writes.
pub(crate) fn sync_read(path: &Path, file: &File) -> Result<()> {
    match file.sync_data() {
        Err(e) if e.kind() != ErrorKind::ReadOnlyFilesystem => Err(Error::Internal(format!(
            "{} is not shown, as its content may not be on the disk: syncing it: {e}",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Gives a file that root made in another user's folder to the owner of a file beside it.
pub(crate) fn chown_like(path: &Path, beside: &Metadata) -> Result<()> {
    match stat_regular(path)? {
        Some(found) if found.uid() != beside.uid() => {
            lchown(path, Some(beside.uid()), Some(beside.gid()))
                .or_internal(format_args!("giving {} to its owner", path.display()))
        }
        _ => Ok(()),
    }
}

/// The error for a user that is neither the owner nor root.
pub(crate) fn permission_error(path: &Path) -> Error {
    Error::failed_precondition(format_args!(
        "only root and its owner may read {}; other users can ask the daemon on readonly.sock, if it serves \
         that socket",
        path.display()
    ))
}

fn owned(path: &Path, found: &Metadata) -> Result<()> {
    check_owner(path, found.uid(), geteuid().as_raw())
}

fn check_owner(path: &Path, owner: u32, us: u32) -> Result<()> {
    if owner == us || owner == 0 {
        return Ok(());
    }
    Err(Error::failed_precondition(format_args!(
        "{} belongs to the user {owner}, and this is the user {us}: run as that user, or chown it",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o700, 0o711, 0o755, 0o2750] {
            chmod(dir.path(), mode);
            create_private(dir.path(), 0o700).unwrap();
        }
        for mode in [0o770, 0o702, 0o1777, 0o777] {
            chmod(dir.path(), mode);
            let refused = create_private(dir.path(), 0o700).unwrap_err();
            assert!(refused.message().contains(&format!("mode {mode:o}")), "{refused}");
            // A sticky folder belongs to all users, so it keeps its mode.
            let says_chmod = refused.message().contains("chmod go-w");
            assert_eq!(says_chmod, mode & STICKY == 0, "{refused}");
        }
    }

    #[test]
    fn a_folder_reached_by_a_link_is_used_and_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        create_private(&real, 0o700).unwrap();
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o700);
        symlink(&real, &link).unwrap();
        assert_eq!(create_private(&link, 0o700).unwrap(), fs::canonicalize(&real).unwrap());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_private(&dir.path().join("file"), 0o700).is_err());
    }

    #[test]
    fn a_link_in_a_files_place_is_refused_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "mine").unwrap();
        chmod(&target, 0o644);
        for to in [&target, &dir.path().join("nowhere")] {
            let _ = fs::remove_file(&link);
            symlink(to, &link).unwrap();
            let refused = tighten(&link).unwrap_err();
            assert!(refused.message().contains("is a symbolic link"), "{refused}");
        }
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644);
        assert!(tighten(dir.path()).unwrap_err().message().contains("no file"));
    }

    #[test]
    fn a_file_that_is_open_to_others_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        tighten(&file).unwrap();
        fs::write(&file, "").unwrap();
        chmod(&file, 0o666);
        tighten(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failed_check_does_not_count_as_absence() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink("nowhere", &link).unwrap();
        let found = |path| exists(path).unwrap();
        assert!(found(&file) && found(&link) && !found(&dir.path().join("missing")));
        // ENOTDIR stands for any error: nothing can be said about what is below a file.
        let below = file.join("below");
        assert!(exists(&below).unwrap_err().message().contains("looking at"));
        assert!(stat_regular(&below).unwrap_err().message().contains("is not a folder"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        const OTHER: u32 = 54_321;
        let check = |owner, us| check_owner(Path::new("root"), owner, us);
        assert!(check(0, 7).is_ok() && check(7, 7).is_ok());
        let refusals = [check(OTHER, 7), check(OTHER, 0), check(7, 0)];
        let messages = refusals.map(|refusal| refusal.unwrap_err().message().to_owned());
        assert!(
            messages[0].contains("root belongs to the user 54321, and this is the user 7"),
            "{messages:?}"
        );
        // Only root can give a folder away.
        if geteuid().is_root() {
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(dir.path(), Some(OTHER), None).unwrap();
            let refused = create_private(dir.path(), 0o700).unwrap_err();
            assert!(refused.message().contains("belongs to the user 54321"), "{refused}");
        }
    }
}

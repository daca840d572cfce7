//! Writes and removes the files of a takeover. Each call syncs, so the files reach the disk in the order of the
//! steps.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::admin::file;
use crate::model::{Error, Result};

/// The error of a step with a file.
pub(crate) fn failed(doing: &str, path: &Path, e: &io::Error) -> Error {
    Error::Internal(format!("{doing} {}: {e}", path.display()))
}

/// Writes a file that all may read, and waits until it is on the disk.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(text.as_bytes())?;
        new.as_file().set_permissions(Permissions::from_mode(0o644))?;
        new.as_file().sync_all()?;
        Ok(new)
    };
    let new = write().map_err(|e| failed("writing", path, &e))?;
    file::put(new, path, true)
}

/// Removes a file if it exists, and waits until the removal is on the disk. Then removes its folder, if that
/// is an empty folder of drop-ins.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(|e| failed("removing", path, &e))?,
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    file::sync_folder(folder).map_err(|e| failed("syncing", folder, &e))?;
    if folder.extension().is_some_and(|end| end == "d") {
        // This fails if the folder has files of the administrator.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

//! Writes and removes the files of a takeover, each with a sync: their order on the disk is that of the steps.

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

/// Removes a file if it is there, waits until that is on the disk, and removes its folder if it is one of
/// drop-ins and empty.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(|e| failed("removing", path, &e))?,
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    file::sync_folder(folder).map_err(|e| failed("syncing", folder, &e))?;
    if folder.extension().is_some_and(|end| end == "d") {
        // It may have files of the administrator's.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

//! The steps of a preparation: renamed folders and second names of blobs. Each step can be repeated, and
//! undone.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::admin::file;
use crate::clock;
use crate::model::{Error, Result};

/// The file of the steps.
pub(crate) const STEPS_FILE: &str = "steps.json";
const MAX_STEPS_BYTES: u64 = 4 << 20;

/// One step of a preparation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PrepareStep {
    /// Give each blob a second name.
    Link { from: PathBuf, to: PathBuf },
    /// Rename a file or a folder.
    Move { from: PathBuf, to: PathBuf },
}

/// The content of the file of the steps.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Steps {
    /// The time of the first step.
    pub(crate) begun: String,
    /// Whether all steps are done.
    pub(crate) done: bool,
    /// The steps in order.
    pub(crate) steps: Vec<PrepareStep>,
}

impl std::fmt::Display for PrepareStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link { from, to } => {
                write!(f, "link the blobs of {} in {}", from.display(), to.display())
            }
            Self::Move { from, to } => write!(f, "move {} to {}", from.display(), to.display()),
        }
    }
}

impl PrepareStep {
    /// Does the step. A step that is done already is skipped.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Link { from, to } => link_missing(from, to).map(drop),
            Self::Move { from, to } => rename(from, to).map(drop),
        }
    }

    /// Undoes the step. Calls `each` with a line for each action.
    pub(crate) fn undo(&self, each: &mut impl FnMut(&str)) -> Result<()> {
        match self {
            Self::Link { from, to } => {
                each(&format!("remove the links in {}", to.display()));
                if to.is_dir() {
                    // This restores the blobs that containerd has collected meanwhile.
                    link_missing(to, from)?;
                    fs::remove_dir_all(to).map_err(|e| failed("removing", to, &e))?;
                }
                Ok(())
            }
            Self::Move { from, to } => {
                if to.symlink_metadata().is_err() {
                    return Ok(());
                }
                if from.symlink_metadata().is_ok() {
                    let newer = newer_name(to);
                    each(&format!("move {} to {}", from.display(), newer.display()));
                    rename(from, &newer)?;
                }
                each(&format!("move {} to {}", to.display(), from.display()));
                rename(to, from).map(drop)
            }
        }
    }
}

/// The new name for a file that containerd created in the place of one that was put aside.
fn newer_name(aside: &Path) -> PathBuf {
    let mut name = aside.as_os_str().to_owned();
    name.push(format!(".newer-{}", clock::display_time().strftime("%Y%m%dT%H%M%SZ")));
    name.into()
}

/// Links each blob of the folder `from` that the folder `to` lacks. Returns the number of links.
pub(crate) fn link_missing(from: &Path, to: &Path) -> Result<u64> {
    let mut linked = 0;
    for algorithm in names(from)? {
        let (from, to) = (from.join(&algorithm), to.join(&algorithm));
        if !from.is_dir() {
            continue;
        }
        fs::create_dir_all(&to).map_err(|e| failed("making", &to, &e))?;
        for name in names(&from)? {
            match fs::hard_link(from.join(&name), to.join(&name)) {
                Ok(()) => linked += 1,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("linking", &from.join(&name), &e)),
            }
        }
        sync(&to)?;
    }
    Ok(linked)
}

/// Renames a file, unless an earlier run has renamed it. Never replaces a file.
fn rename(from: &Path, to: &Path) -> Result<bool> {
    if from.symlink_metadata().is_err() {
        return Ok(false);
    }
    if to.symlink_metadata().is_ok() {
        return Err(Error::FailedPrecondition(format!(
            "{} exists already, so {} cannot be moved there: has containerd been started in between? \
             Run `lmdb-images rescue unprepare` first",
            to.display(),
            from.display()
        )));
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(|e| failed("making", folder, &e))?;
    fs::rename(from, to).map_err(|e| match e.kind() {
        ErrorKind::CrossesDevices | ErrorKind::ResourceBusy => Error::FailedPrecondition(format!(
            "{} is a file system of its own, so it cannot be renamed ({e}): unmount it, or move its \
             files by hand",
            from.display()
        )),
        _ => failed("moving", from, &e),
    })?;
    sync(folder)?;
    from.parent().map_or(Ok(()), sync)?;
    Ok(true)
}

fn sync(folder: &Path) -> Result<()> {
    file::sync_folder(folder).map_err(|e| failed("syncing", folder, &e))
}

/// Reads the file of the steps; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Steps>> {
    let Some((_, text)) = file::read_text(path, MAX_STEPS_BYTES)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        Error::DataLoss(format!(
            "{} cannot be read: {e}: undo by hand the steps that it lists, then remove it",
            path.display()
        ))
    })
}

/// Replaces the file of the steps.
pub(crate) fn write(path: &Path, steps: &Steps) -> Result<()> {
    let text = serde_json::to_string_pretty(steps).map_err(|e| Error::Internal(e.to_string()))?;
    let unwritten = |e: std::io::Error| failed("writing", path, &e);
    let folder = path.parent().unwrap_or(path);
    let mut new = NamedTempFile::new_in(folder).map_err(unwritten)?;
    new.write_all(text.as_bytes()).map_err(unwritten)?;
    new.as_file().sync_all().map_err(unwritten)?;
    file::put(new, path, true)
}

/// The error of a failed operation on a file.
pub(crate) fn failed(doing: &str, path: &Path, e: &std::io::Error) -> Error {
    let what = format!("{doing} {}: {e}", path.display());
    match e.kind() {
        ErrorKind::PermissionDenied => Error::PermissionDenied(format!("{what}: run this as root")),
        _ => Error::Unavailable(what),
    }
}

/// The sorted names in a folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let unread = |e| failed("reading", folder, &e);
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(unread)? {
        let name = entry.map_err(unread)?.file_name().into_string().map_err(|name| {
            let name = name.to_string_lossy();
            Error::FailedPrecondition(format!(
                "{} has {name:?}, which is no text",
                folder.display()
            ))
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

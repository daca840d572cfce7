//! `lmdb-images rescue prepare` and `unprepare`: what must be done while containerd is stopped, and the way
//! back. Nothing is copied or removed: folders are renamed, and the blobs get second names, so that
//! no collection of containerd's can cost one.
//!
//! The steps are written to a file before the first is done. A step that is done already is skipped, so
//! both commands can be run again after a kill.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::stopped::{self, SNAPSHOTTER_PREFIX};
use crate::admin::file;
use crate::clock;
use crate::model::{Error, Result};

/// The folder in containerd's root, and in its state folder, with what is put aside.
const ASIDE_FOLDER: &str = "lmdb-images-rescue";

/// The folder beside the blobs with their second names. It must be on the blobs' file system.
pub const LINK_FOLDER: &str = "lmdb-images-rescue-blobs";

const STEPS_FILE: &str = "steps.json";
const MAX_STEPS_BYTES: u64 = 4 << 20;
const CONTENT_FOLDER: &str = "io.containerd.content.v1.content";
const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";

/// The folders of a containerd.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Its `root`, usually /var/lib/containerd.
    pub root: PathBuf,
    /// Its `state`, usually /run/containerd.
    pub state: PathBuf,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// Give each blob a second name.
    Link { from: PathBuf, to: PathBuf },
    /// Rename a file or a folder.
    Move { from: PathBuf, to: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
struct Steps {
    /// When they were begun.
    begun: String,
    /// Whether all are done.
    done: bool,
    steps: Vec<Step>,
}

/// Puts aside what would stand in the way of a rescue. Calls `each` with each step before it is done.
///
/// # Errors
/// `FailedPrecondition` while anything of containerd runs, or if it is prepared already.
pub fn prepare(folders: &Folders, dry_run: bool, mut each: impl FnMut(&str)) -> Result<()> {
    let Folders { root, state } = folders.resolved()?;
    let _held = stopped::check(&root, &state, &root.join(DATABASE))?;
    let aside = root.join(ASIDE_FOLDER);
    let file = aside.join(STEPS_FILE);
    let mut steps = match read(&file)? {
        Some(steps) if steps.done => {
            return Err(Error::FailedPrecondition(format!(
                "{} is prepared since {}: start containerd and run `lmdb-images rescue`, or undo it \
                 with `lmdb-images rescue unprepare`",
                root.display(),
                steps.begun
            )));
        }
        Some(steps) => steps,
        None => Steps {
            begun: clock::display_time().to_string(),
            done: false,
            steps: plan(&root, &state, &aside)?,
        },
    };
    if !dry_run {
        fs::create_dir_all(&aside).map_err(|e| failed("making", &aside, &e))?;
        write(&file, &steps)?;
    }
    for step in &steps.steps {
        each(&step.to_string());
        if !dry_run {
            step.run()?;
        }
    }
    if !dry_run {
        steps.done = true;
        write(&file, &steps)?;
    }
    Ok(())
}

/// Undoes [`prepare`]. What containerd has made in the meantime is put aside instead.
///
/// # Errors
/// `FailedPrecondition` while anything of containerd runs, `NotFound` if nothing was prepared.
pub fn unprepare(folders: &Folders, mut each: impl FnMut(&str)) -> Result<()> {
    let Folders { root, state } = folders.resolved()?;
    let aside = root.join(ASIDE_FOLDER);
    let file = aside.join(STEPS_FILE);
    let steps = read(&file)?.ok_or_else(|| {
        Error::NotFound(format!(
            "{} is not prepared: there is nothing to undo (no {})",
            root.display(),
            file.display()
        ))
    })?;
    let _held = stopped::check(&root, &state, &root.join(DATABASE))?;
    for step in steps.steps.iter().rev() {
        step.undo(&mut each)?;
    }
    fs::remove_file(&file).map_err(|e| failed("removing", &file, &e))?;
    // The folders stay when something is in them: what containerd made in the meantime.
    for folder in [aside.join("io.containerd.metadata.v1.bolt"), aside, state.join(ASIDE_FOLDER)] {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

impl Folders {
    /// The folders without symbolic links. The state folder may be gone after a start of the machine.
    fn resolved(&self) -> Result<Self> {
        let root = self.root.canonicalize().map_err(|e| {
            Error::InvalidArgument(format!(
                "{}: {e}: name the folder that is `root` in containerd's config.toml",
                self.root.display()
            ))
        })?;
        if !root.join(CONTENT_FOLDER).join("blobs").is_dir() {
            return Err(Error::InvalidArgument(format!(
                "{} has no {CONTENT_FOLDER}/blobs: name the folder that is `root` in containerd's \
                 config.toml",
                root.display()
            )));
        }
        let state = self.state.canonicalize().unwrap_or_else(|_| self.state.clone());
        Ok(Self { root, state })
    }
}

/// The steps for the folders as they are now.
fn plan(root: &Path, state: &Path, aside: &Path) -> Result<Vec<Step>> {
    let content = root.join(CONTENT_FOLDER);
    let mut steps = vec![Step::Link { from: content.join("blobs"), to: content.join(LINK_FOLDER) }];
    let moved = |from: PathBuf, to: PathBuf| Step::Move { from, to };
    if root.join(DATABASE).symlink_metadata().is_ok() {
        steps.push(moved(root.join(DATABASE), aside.join(DATABASE)));
    }
    for name in names(root)? {
        if name.starts_with(SNAPSHOTTER_PREFIX) {
            steps.push(moved(root.join(&name), aside.join(&name)));
        }
    }
    if state.is_dir() {
        for name in names(state)?.into_iter().filter(|name| name != ASIDE_FOLDER) {
            steps.push(moved(state.join(&name), state.join(ASIDE_FOLDER).join(&name)));
        }
    }
    Ok(steps)
}

fn names(folder: &Path) -> Result<Vec<String>> {
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

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link { from, to } => {
                write!(f, "link the blobs of {} in {}", from.display(), to.display())
            }
            Self::Move { from, to } => write!(f, "move {} to {}", from.display(), to.display()),
        }
    }
}

impl Step {
    fn run(&self) -> Result<()> {
        match self {
            Self::Link { from, to } => link_missing(from, to).map(drop),
            Self::Move { from, to } => rename(from, to).map(drop),
        }
    }

    fn undo(&self, each: &mut impl FnMut(&str)) -> Result<()> {
        match self {
            Self::Link { from, to } => {
                each(&format!("remove the links in {}", to.display()));
                if to.is_dir() {
                    // A blob that containerd has collected in the meantime comes back.
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

/// The name for what was made anew in the place of something that was put aside.
fn newer_name(aside: &Path) -> PathBuf {
    let mut name = aside.as_os_str().to_owned();
    name.push(format!(".newer-{}", clock::display_time().strftime("%Y%m%dT%H%M%SZ")));
    name.into()
}

/// Links each blob of a folder that another lacks into it. Returns how many.
pub fn link_missing(from: &Path, to: &Path) -> Result<u64> {
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

/// Renames; one that is done already is no error. Never replaces anything.
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
            "{} is a file system of its own, so it cannot be renamed ({e}): unmount it, or move what is \
             in it by hand",
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

fn read(path: &Path) -> Result<Option<Steps>> {
    let Some((_, text)) = file::read_text(path, MAX_STEPS_BYTES)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        Error::DataLoss(format!(
            "{} cannot be read: {e}: undo by hand what it lists, then remove it",
            path.display()
        ))
    })
}

fn write(path: &Path, steps: &Steps) -> Result<()> {
    let text = serde_json::to_string_pretty(steps).map_err(|e| Error::Internal(e.to_string()))?;
    let unwritten = |e: std::io::Error| failed("writing", path, &e);
    let folder = path.parent().unwrap_or(path);
    let mut new = NamedTempFile::new_in(folder).map_err(unwritten)?;
    new.write_all(text.as_bytes()).map_err(unwritten)?;
    new.as_file().sync_all().map_err(unwritten)?;
    file::put(new, path, true)
}

fn failed(doing: &str, path: &Path, e: &std::io::Error) -> Error {
    let what = format!("{doing} {}: {e}", path.display());
    match e.kind() {
        ErrorKind::PermissionDenied => Error::PermissionDenied(format!("{what}: run this as root")),
        _ => Error::Unavailable(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A folder of containerd's, with a state folder.
    fn made(dir: &Path) -> Folders {
        let folders = Folders { root: dir.join("root"), state: dir.join("state") };
        for (path, text) in [
            ("root/io.containerd.content.v1.content/blobs/sha256/aa", "a"),
            ("root/io.containerd.content.v1.content/blobs/sha256/bb", "b"),
            ("root/io.containerd.metadata.v1.bolt/meta.db", "database"),
            ("root/io.containerd.snapshotter.v1.overlayfs/metadata.db", "snapshots"),
            ("root/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/file", "upper"),
            ("state/io.containerd.runtime.v2.task/default/c/config.json", "{}"),
            ("state/containerd.sock.ttrpc", ""),
        ] {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            fs::write(dir.join(path), text).unwrap();
        }
        folders
    }

    /// All files with their content.
    fn files(dir: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for entry in dir.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
        found
    }

    #[test]
    fn prepare_puts_aside_and_unprepare_brings_all_back() {
        let dir = tempfile::tempdir().unwrap();
        let folders = made(dir.path());
        let before = files(dir.path());
        let mut told = Vec::new();
        prepare(&folders, true, |step| told.push(step.to_owned())).unwrap();
        assert_eq!(files(dir.path()), before, "a dry run changes nothing");
        assert_eq!(told.len(), 5, "{told:?}");
        let mut done = Vec::new();
        prepare(&folders, false, |step| done.push(step.to_owned())).unwrap();
        assert_eq!(told, done);
        assert!(!folders.root.join(DATABASE).exists());
        assert_eq!(names(&folders.state).unwrap(), [ASIDE_FOLDER]);
        let refused = prepare(&folders, false, |_| {}).unwrap_err();
        assert!(refused.message().contains("is prepared since"), "{refused}");

        // A containerd ran meanwhile, and collected a blob.
        fs::write(folders.root.join(DATABASE), "newer").unwrap();
        let collected = folders.root.join(CONTENT_FOLDER).join("blobs/sha256/aa");
        fs::remove_file(&collected).unwrap();
        unprepare(&folders, |_| {}).unwrap();
        let is_newer = |path: &PathBuf| path.to_string_lossy().contains(".newer-");
        let (newer, after): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files(dir.path()).into_iter().partition(|(path, _)| is_newer(path));
        assert_eq!(newer.into_values().collect::<Vec<_>>(), ["newer"]);
        assert_eq!(after, before);
        assert!(matches!(unprepare(&folders, |_| {}), Err(Error::NotFound(_))));
    }

    #[test]
    fn prepare_and_unprepare_go_on_where_they_were_killed() {
        let dir = tempfile::tempdir().unwrap();
        let folders = made(dir.path());
        let before = files(dir.path());
        for done in 0..5 {
            let resolved = folders.resolved().unwrap();
            let aside = resolved.root.join(ASIDE_FOLDER);
            let steps = plan(&resolved.root, &resolved.state, &aside).unwrap();
            fs::create_dir_all(&aside).unwrap();
            let steps = Steps { begun: "then".into(), done: false, steps };
            write(&aside.join(STEPS_FILE), &steps).unwrap();
            steps.steps.iter().take(done).for_each(|step| step.run().unwrap());
            prepare(&folders, false, |_| {}).unwrap();
            assert!(!resolved.root.join(DATABASE).exists());
            steps.steps.iter().rev().take(done).for_each(|step| step.undo(&mut |_| {}).unwrap());
            unprepare(&folders, |_| {}).unwrap();
            assert_eq!(files(dir.path()), before, "{done} steps done");
        }
    }
}

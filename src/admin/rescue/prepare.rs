//! `lmdb-images rescue prepare` and `unprepare`: the preparation while containerd is stopped, and the way
//! back. Both rename folders, and neither copy nor remove a file. The blobs get second names, so containerd's
//! collector cannot remove their data.
//!
//! `prepare` writes all steps to a file before the first. Both commands skip steps that are done already, so
//! they can be run again after a kill.

use std::fs;
use std::path::{Path, PathBuf};

use super::steps::{PrepareStep, STEPS_FILE, Steps, failed, names, read, write};
use super::stopped::{self, SNAPSHOTTER_PREFIX};
use crate::clock;
use crate::model::{Error, Result};

/// The folder in containerd's root, and in its state folder, for the files that a preparation moves.
const ASIDE_FOLDER: &str = "lmdb-images-rescue";

/// The folder with the second names of the blobs. It must be on the file system of the blobs.
pub(crate) const LINK_FOLDER: &str = "lmdb-images-rescue-blobs";

const CONTENT_FOLDER: &str = "io.containerd.content.v1.content";
const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";

/// The folders of a containerd.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    /// The `root` of its settings, usually /var/lib/containerd.
    pub(crate) root: PathBuf,
    /// The `state` of its settings, usually /run/containerd.
    pub(crate) state: PathBuf,
}

/// Puts aside the folders that a rescue must not find. Calls `each` with each step before it does the step.
///
/// # Errors
/// `FailedPrecondition` while anything of containerd runs, or if containerd is prepared already.
pub(crate) fn prepare(folders: &Folders, dry_run: bool, mut each: impl FnMut(&str)) -> Result<()> {
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

/// Undoes [`prepare`]. Files that containerd has created meanwhile are put aside instead.
///
/// # Errors
/// `FailedPrecondition` while anything of containerd runs, `NotFound` if nothing was prepared.
pub(crate) fn unprepare(folders: &Folders, mut each: impl FnMut(&str)) -> Result<()> {
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
    // A folder stays if it has files that containerd created meanwhile.
    for folder in [aside.join("io.containerd.metadata.v1.bolt"), aside, state.join(ASIDE_FOLDER)] {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

impl Folders {
    /// The folders without symbolic links. The state folder may be missing after a start of the machine.
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
fn plan(root: &Path, state: &Path, aside: &Path) -> Result<Vec<PrepareStep>> {
    let content = root.join(CONTENT_FOLDER);
    let mut steps =
        vec![PrepareStep::Link { from: content.join("blobs"), to: content.join(LINK_FOLDER) }];
    let moved = |from: PathBuf, to: PathBuf| PrepareStep::Move { from, to };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A root folder of containerd, with a state folder.
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
    fn unprepare_restores_what_prepare_has_moved() {
        let dir = tempfile::tempdir().unwrap();
        let folders = made(dir.path());
        let before = files(dir.path());
        let mut lines = Vec::new();
        prepare(&folders, true, |step| lines.push(step.to_owned())).unwrap();
        assert_eq!(files(dir.path()), before, "a dry run changes nothing");
        assert_eq!(lines.len(), 5, "{lines:?}");
        let mut done = Vec::new();
        prepare(&folders, false, |step| done.push(step.to_owned())).unwrap();
        assert_eq!(lines, done);
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

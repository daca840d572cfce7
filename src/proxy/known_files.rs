//! The paths of containerd's files, as containerd last reported them. They are stored in a file in the store's
//! folder, for a daemon that starts while containerd does not answer.
//!
//! The file is not part of the store. Without it, such a daemon can read only its copy.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::containerd::layout::Layout;
use crate::model::Result;
use crate::model::{Error, printable};

/// The name of the file.
const FILE: &str = "containerd.json";

/// The file with the paths of containerd's files.
#[derive(Debug)]
pub(crate) struct KnownFiles {
    file: PathBuf,
    socket: PathBuf,
}

/// The content of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownLayout {
    /// The socket of the containerd that reported the layout. Another socket may belong to another containerd.
    socket: PathBuf,
    layout: Layout,
}

impl KnownFiles {
    /// The file in the folder `root`, for the containerd at `socket`.
    pub(crate) fn new(root: &Path, socket: &Path) -> Self {
        Self { file: root.join(FILE), socket: socket.to_owned() }
    }

    /// The layout that containerd last reported. `None` if the file does not exist, cannot be parsed, or is about
    /// another socket.
    pub(crate) fn read(&self) -> Option<Layout> {
        let known: KnownLayout = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (known.socket == self.socket).then_some(known.layout)
    }

    /// Stores the layout. `None` removes the stored one.
    pub(crate) fn write(&self, layout: Option<&Layout>) {
        if self.read().as_ref() == layout {
            return;
        }
        if let Err(e) = self.replace(layout) {
            log::warn!(
                "where containerd keeps its files cannot be kept in {}: {e}; if this daemon starts while \
                 containerd is down, names are served as they were last seen",
                printable::escaped(&self.file.display().to_string())
            );
        }
    }

    fn replace(&self, layout: Option<&Layout>) -> Result<()> {
        let failed = |e: &dyn std::error::Error| Error::Internal(e.to_string());
        let Some(layout) = layout else {
            return fs::remove_file(&self.file).map_err(|e| failed(&e));
        };
        let known = KnownLayout { socket: self.socket.clone(), layout: layout.clone() };
        let text = serde_json::to_vec_pretty(&known).map_err(|e| failed(&e))?;
        let new = self.file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.file)).map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_valid_only_for_the_socket_of_its_containerd() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownFiles::new(dir.path(), Path::new("/run/a.sock"));
        let layout = |uuid: &str| Layout {
            database: Some("/r/meta.db".into()),
            content: None,
            shares_content: true,
            snapshotters: Vec::new(),
            uuid: uuid.into(),
        };
        assert_eq!(known.read(), None);
        known.write(Some(&layout("u")));
        assert_eq!(known.read(), Some(layout("u")));
        let other = KnownFiles::new(dir.path(), Path::new("/run/b.sock"));
        assert_eq!(other.read(), None);
        other.write(Some(&layout("v")));
        assert_eq!((known.read(), other.read()), (None, Some(layout("v"))));
        other.write(None);
        assert_eq!(other.read(), None);
        other.write(None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for junk in ["", "{}", "[1]", "{\"socket\": \"/run/a.sock\"}"] {
            fs::write(dir.path().join(FILE), junk).unwrap();
            assert_eq!(known.read(), None, "{junk:?}");
        }
        known.write(Some(&layout("u")));
        assert_eq!(known.read(), Some(layout("u")));
    }
}

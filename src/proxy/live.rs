//! The files of the containerd that the daemon stands in front of, read while it runs.
//!
//! [`LiveFiles`] are used only while they are certainly those of the containerd that clients reach
//! through its socket. It told where they are, and its identity lies beside the database, whose path still
//! leads to the same file. And one of these holds:
//!
//! - the socket is bound as it was when containerd told;
//! - the process that listens on the socket holds bbolt's lock on the database;
//! - nothing listens on the socket: a containerd that ended changes its database no more.
//!
//! None of them needs an answer of containerd's, so its files can be read while it hangs or is down, also
//! after it started again. Where it told the files to an earlier daemon, that is kept
//! ([`known_files`](super::known_files)).
//!
//! Where the files cannot be used, [`LiveReads::get`] gives nothing, the log says once why, and
//! containerd is asked as before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::containerd::blobs::Blobs;
use crate::containerd::client::GrpcClient;
use crate::containerd::database::Database;
use crate::containerd::layout::Layout;
use crate::containerd::listener::Listener;
use crate::model::printable;
use crate::proxy::compare::ComparisonCache;
use crate::proxy::known_files::KnownFiles;
use crate::proxy::outcome::READ_TIMEOUT;

/// The files of a containerd, if they can be used.
#[derive(Debug)]
pub(crate) struct LiveReads {
    socket: PathBuf,
    known: KnownFiles,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: Option<Arc<LiveFiles>>,
    /// The last binding of the socket for which the files were certain.
    binding: Option<SocketBinding>,
    /// The last line about the files in the log.
    logged: String,
}

/// The files of a containerd.
#[derive(Debug)]
pub struct LiveFiles {
    /// The database.
    pub database: Database,
    /// The content, if that lies in files.
    pub blobs: Option<Blobs>,
    /// The comparisons with the copy.
    pub comparisons: ComparisonCache,
}

/// The files to read when containerd does not answer.
#[derive(Debug)]
pub(crate) struct Fallback {
    /// Files of containerd, if they can be used.
    pub files: Option<Arc<LiveFiles>>,
    /// Whether no process listens on its socket.
    pub(crate) is_down: bool,
}

/// Identifies one binding of a socket to its path. A file system may give a new file the inode number of a removed
/// one, so the time counts, too: that of the last modification, which a change of owner or mode leaves the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketBinding {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl SocketBinding {
    fn read(socket: &Path) -> Option<Self> {
        let found = fs::metadata(socket).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        })
    }
}

impl LiveFiles {
    fn open(layout: &Layout) -> Result<Self, String> {
        let Some(path) = &layout.database else {
            return Err("it does not say where its database is".into());
        };
        if !layout.are_here() {
            return Err(format!(
                "the files beside {} are not this containerd's, or cannot be read: run this daemon as \
                 the same user and in the same mount namespace",
                printable::escaped(&path.display().to_string())
            ));
        }
        let blobs = layout.content.as_deref().map(Blobs::new);
        Ok(Self { database: Database::open(path)?, blobs, comparisons: ComparisonCache::default() })
    }

    /// Opens the files of the containerd that told where they are, and listens on `socket`.
    fn open_running(layout: &Layout, socket: &Path) -> Result<Self, String> {
        let files = Self::open(layout)?;
        let is_locked = files.database.check_is_locked();
        // A containerd that has ended since it told has a lock no more. The next one takes it before it
        // listens.
        if is_locked.is_err() && Listener::find(socket) != Listener::Absent {
            files.database.check_is_locked()?;
        }
        Ok(files)
    }
}

impl LiveReads {
    /// The files of the containerd at `socket`. What it told an earlier daemon is in the folder `root`.
    pub(crate) fn new(root: &Path, socket: &Path) -> Self {
        let known = KnownFiles::new(root, socket);
        let files = known.read().and_then(|layout| LiveFiles::open(&layout).ok()).map(Arc::new);
        let state = Mutex::new(State { files, ..State::default() });
        Self { socket: socket.to_owned(), known, state }
    }

    /// Whether containerd told the paths of its files, and the daemon can read them.
    pub(crate) fn are_known(&self) -> bool {
        self.state.lock().files.is_some()
    }

    /// The files, if they can be used now.
    pub(crate) fn get(&self) -> Option<Arc<LiveFiles>> {
        let (files, binding) = {
            let state = self.state.lock();
            (Arc::clone(state.files.as_ref()?), state.binding)
        };
        let now = SocketBinding::read(&self.socket);
        // No process listens at a path that does not exist.
        if now.is_none() || now == binding {
            return files.database.is_current().then_some(files);
        }
        self.fallback().files
    }

    /// Finds out what can be read now if containerd does not answer. Both fields describe the same moment:
    /// if nothing listens then, the files are current.
    pub(crate) fn fallback(&self) -> Fallback {
        let now = SocketBinding::read(&self.socket);
        let listener = Listener::find(&self.socket);
        let is_down = listener == Listener::Absent;
        let (files, binding) = {
            let state = self.state.lock();
            (state.files.clone(), state.binding)
        };
        let Some(files) = files.filter(|files| files.database.is_current()) else {
            return Fallback { files: None, is_down };
        };
        let is_theirs = match listener {
            Listener::Absent => true,
            _ if now == binding => true,
            Listener::Process(process) => {
                let is_theirs = files.database.is_locked_by(process)
                    && SocketBinding::read(&self.socket) == now;
                if is_theirs {
                    self.set_binding(&files, now);
                }
                is_theirs
            }
            Listener::Unknown => false,
        };
        Fallback { files: is_theirs.then_some(files), is_down }
    }

    fn set_binding(&self, files: &Arc<LiveFiles>, binding: Option<SocketBinding>) {
        let mut state = self.state.lock();
        if state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, files)) {
            state.binding = binding;
        }
    }

    /// Asks containerd for its files, and uses them from now on if they can be used. If it does not answer,
    /// nothing is changed: what it told before may still be right.
    pub(crate) async fn find(&self, containerd: &GrpcClient) {
        // Read before containerd is asked: one that is replaced meanwhile binds the socket anew.
        let binding = SocketBinding::read(&self.socket);
        let layout = tokio::time::timeout(READ_TIMEOUT, containerd.layout()).await;
        let (layout, found) = match layout {
            Ok(Ok(layout)) => {
                let found = LiveFiles::open_running(&layout, &self.socket);
                (Some(layout), found)
            }
            Ok(Err(_)) | Err(_) if self.are_known() => return,
            Ok(Err(e)) => (None, Err(e.message().to_owned())),
            Err(_) => (None, Err("it does not answer".to_owned())),
        };
        if layout.is_some() {
            self.known.write(layout.as_ref().filter(|_| found.is_ok()));
        }
        let mut state = self.state.lock();
        let line = match &found {
            Ok(_) => "containerd's database is read directly".to_owned(),
            Err(why) => format!("containerd's files are not read, it is asked instead: {why}"),
        };
        if state.logged != line {
            match &found {
                Ok(files) if files.blobs.is_none() => {
                    log::info!("{line}; its content is not, as it lies in no folder of its own");
                }
                Ok(_) => log::info!("{line}"),
                Err(_) => log::warn!("{line}"),
            }
            state.logged = line;
        }
        state.files = found.ok().map(Arc::new);
        state.binding = binding;
    }
}

//! The files of the containerd behind this daemon, and whether they may be read while it runs.
//!
//! The daemon uses [`LiveFiles`] only while they certainly belong to the containerd that clients reach through
//! its socket. containerd must have reported their paths, the root folder above the database must have the file
//! with containerd's identity, and the path of the database must still lead to the same file. In addition, one
//! of these conditions must be true:
//!
//! - the socket is bound as it was when containerd reported the paths;
//! - the process that listens on the socket has bbolt's lock on the database;
//! - no process listens on the socket: a containerd that has ended does not change its database.
//!
//! No condition needs an answer of containerd. So the daemon can read the files while containerd hangs or is
//! down, also after containerd was restarted. The paths are stored for later daemons
//! ([`known_files`](super::known_files)).
//!
//! If the files cannot be used, [`LiveReads::get`] returns `None`, the log says once why, and the daemon calls
//! containerd instead.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::containerd::blobs::Blobs;
use crate::containerd::client::GrpcClient;
use crate::containerd::database::MetadataDatabase;
use crate::containerd::layout::Layout;
use crate::containerd::listener::Listener;
use crate::model::printable;
use crate::proxy::compare::ComparisonCache;
use crate::proxy::known_files::KnownFiles;
use crate::proxy::outcome::READ_TIMEOUT;

/// The most bytes of pages that a read on the thread of a connection may take. A larger record takes
/// milliseconds, and several times its size in memory.
pub(super) const MAX_INLINE_BYTES: u64 = 128 << 10;

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
    pub database: MetadataDatabase,
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
/// one, so the time of the last modification counts too. A change of owner or mode does not change that time.
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
        Ok(Self {
            database: MetadataDatabase::open(path)?,
            blobs,
            comparisons: ComparisonCache::default(),
        })
    }

    /// Opens the files of the containerd that reported `layout` and listens on `socket`.
    fn open_running(layout: &Layout, socket: &Path) -> Result<Self, String> {
        let files = Self::open(layout)?;
        let is_locked = files.database.check_is_locked();
        // A containerd that has ended since its report no longer has the lock. The next containerd locks the
        // database before it listens.
        if is_locked.is_err() && Listener::find(socket) != Listener::Absent {
            files.database.check_is_locked()?;
        }
        Ok(files)
    }
}

impl LiveReads {
    /// The files of the containerd at `socket`. The folder `root` has the paths that it reported to an earlier
    /// daemon.
    pub(crate) fn new(root: &Path, socket: &Path) -> Self {
        let known = KnownFiles::new(root, socket);
        let files = known.read().and_then(|layout| LiveFiles::open(&layout).ok()).map(Arc::new);
        let state = Mutex::new(State { files, ..State::default() });
        Self { socket: socket.to_owned(), known, state }
    }

    /// Whether containerd has reported the paths of its files, and the daemon could open them.
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

    /// The files to read now if containerd does not answer. Both fields describe the same moment: if no process
    /// listens then, the files are current.
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
        let belong_to_listener = match listener {
            Listener::Absent => true,
            _ if now == binding => true,
            Listener::Process(process) => {
                let has_lock = files.database.is_locked_by(process)
                    && SocketBinding::read(&self.socket) == now;
                if has_lock {
                    self.set_binding(&files, now);
                }
                has_lock
            }
            Listener::Unknown => false,
        };
        Fallback { files: belong_to_listener.then_some(files), is_down }
    }

    fn set_binding(&self, files: &Arc<LiveFiles>, binding: Option<SocketBinding>) {
        let mut state = self.state.lock();
        if state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, files)) {
            state.binding = binding;
        }
    }

    /// Asks containerd for the paths of its files, and uses the files from now on if possible. If containerd does
    /// not answer, the known files stay: the paths may still be right.
    pub(crate) async fn find(&self, containerd: &GrpcClient) {
        // Read this before the call: if another containerd replaces this one meanwhile, it binds the socket anew.
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

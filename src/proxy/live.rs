//! The files of the containerd behind, read while it runs.
//!
//! [`LiveFiles`] are used only while they are certainly those of the containerd that clients reach
//! through its socket: it told where they are, a process holds its lock on the database, its identity
//! lies beside the database, and since then neither the database nor the socket was replaced. A
//! containerd that ended changes its database no more, so its files stay right until another one
//! listens.
//!
//! Where the files cannot be used, [`LiveReads::get`] gives nothing, the log says once why, and
//! containerd is asked as before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::containerd::blobs::Blobs;
use crate::containerd::client::GrpcClient;
use crate::containerd::database::Database;
use crate::model::printable;
use crate::proxy::compare::Compared;
use crate::proxy::outcome::READ_TIMEOUT;

/// The files of a containerd, if they can be used.
#[derive(Debug, Default)]
pub struct LiveReads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: Option<Arc<LiveFiles>>,
    /// What the log said last.
    logged: String,
}

/// The files of a containerd.
#[derive(Debug)]
pub struct LiveFiles {
    /// Its database.
    pub database: Database,
    /// Its content, if that lies in files.
    pub blobs: Option<Blobs>,
    /// What was compared with the copy.
    pub compared: Compared,
    socket: PathBuf,
    bound: Option<Bound>,
}

/// Tells one binding of a socket's path from the next. A file system may give a new file the number of
/// one that is gone, so its time counts, too. Unlike the time of the last change, the time of the
/// last modification stays the same when the owner or the mode is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Bound {
    fn of(socket: &Path) -> Option<Self> {
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
    async fn find(containerd: &GrpcClient) -> Result<Self, String> {
        let socket = containerd.socket().to_owned();
        // Before it is asked: a containerd that is replaced meanwhile has another socket then.
        let bound = Bound::of(&socket);
        let places = tokio::time::timeout(READ_TIMEOUT, containerd.places()).await;
        let places = places.map_err(|_| "it does not answer".to_owned())?;
        let places = places.map_err(|e| e.message().to_owned())?;
        let Some(path) = &places.database else {
            return Err("it does not say where its database is".into());
        };
        if !places.are_here() {
            return Err(format!(
                "the files beside {} are not this containerd's, or cannot be read: run this daemon as \
                 the same user and in the same mount namespace",
                printable::escaped(&path.display().to_string())
            ));
        }
        let blobs = places.content.as_deref().map(Blobs::new);
        let database = Database::open(path)?;
        Ok(Self { database, blobs, compared: Compared::default(), socket, bound })
    }

    fn are_current(&self) -> bool {
        // Nobody listens at a path where there is nothing.
        let bound = Bound::of(&self.socket);
        (bound.is_none() || bound == self.bound) && self.database.is_current()
    }
}

impl LiveReads {
    /// The files, if they can be used now.
    pub fn get(&self) -> Option<Arc<LiveFiles>> {
        let files = self.lock().files.clone();
        files.filter(|files| files.are_current())
    }

    /// Asks containerd for its files, and uses them from now on if they can be used.
    pub async fn find(&self, containerd: &GrpcClient) {
        let found = LiveFiles::find(containerd).await;
        let mut state = self.lock();
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
    }

    /// Locks the state. Code that holds the lock cannot panic, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

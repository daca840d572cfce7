//! The process: its limit of open files, and the signals that stop it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::model::{Error, Result};

/// Raises the soft limit of open files to the hard limit: each connection is an open file.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(hard) => log::debug!("up to {hard} open files"),
        Err(e) => log::warn!("the limit of open files stays as it is: {e}"),
    }
}

/// The signals that stop the daemon.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From then on these signals do not kill the process.
    pub fn listen() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|e| Error::Internal(format!("listening to signals: {e}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

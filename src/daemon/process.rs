//! The process: its limit of open files, and the signals that stop it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc::SIGXFSZ;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::model::{Context, Result};

/// Raises the soft limit of open files to the hard limit: each connection is an open file.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(hard) => log::debug!("up to {hard} open files"),
        Err(e) => log::warn!("the limit of open files stays as it is: {e}"),
    }
}

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail with EFBIG. Without a handler the kernel
/// ends the process by SIGXFSZ, at any point of its work.
///
/// # Errors
///
/// `Internal` if the kernel refuses the handler.
pub(crate) fn survive_large_files() -> Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(|_| ()).or_internal("handling SIGXFSZ")
}

/// Signals that come so soon after the first one are the same.
const REPEAT_TIME: Duration = Duration::from_secs(1);

/// The signals that stop the daemon.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The signal of a terminal that is closed.
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers. From then on these signals do not kill the process.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).or_internal("listening to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that comes a while after the last one, and returns its name. A process group gets a
    /// signal twice from some programs, which mean one.
    pub(crate) async fn next_after_a_while(&mut self) -> &'static str {
        let since = Instant::now();
        loop {
            let signal = self.next().await;
            if since.elapsed() > REPEAT_TIME {
                return signal;
            }
        }
    }

    /// Waits for the next signal and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_hangup_stops_the_daemon_and_a_signal_that_comes_twice_at_once_counts_once() {
        let mut signals = Signals::listen().unwrap();
        raise(Signal::SIGHUP).unwrap();
        assert_eq!(signals.next().await, "SIGHUP");
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.next().await, "SIGTERM");
        let begun = Instant::now();
        let again = async {
            raise(Signal::SIGTERM).unwrap();
            tokio::time::sleep(REPEAT_TIME + Duration::from_millis(100)).await;
            raise(Signal::SIGINT).unwrap();
            std::future::pending::<()>().await;
        };
        let signal = tokio::select! {
            signal = signals.next_after_a_while() => signal,
            () = again => "",
        };
        assert_eq!(signal, "SIGINT");
        assert!(begun.elapsed() > REPEAT_TIME);
    }
}

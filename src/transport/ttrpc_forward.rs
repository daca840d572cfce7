//! Passing ttrpc connections on to a containerd as they are: bytes, both ways.
//!
//! containerd serves ttrpc at its address with `.ttrpc` behind it, and clients that know its address only
//! derive that one. Each connection here has one to containerd, and a buffer each way: a side that does
//! not read holds the other back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::UnixStream;

use super::forward::{CONNECT, GRACE};
use super::listener::{Stop, stopped};
use crate::metrics::calls::Calls;

/// Bytes under way in one direction of a connection.
const BUFFER_BYTES: usize = 16 << 10;

/// Passes connections on to one socket. Clones are the same.
#[derive(Clone, Debug)]
pub struct TtrpcForwarder {
    socket: Arc<Path>,
    counted: Calls,
    /// It was said that containerd does not answer there, and it has not answered since.
    is_reported: Arc<AtomicBool>,
}

impl TtrpcForwarder {
    /// Passes connections on to `socket`.
    pub fn new(socket: &Path, counted: Calls) -> Self {
        Self { socket: Arc::from(socket), counted, is_reported: Arc::default() }
    }

    /// Passes one connection on until either side ends it, or until soon after `stop` turns.
    pub async fn connection(self, mut client: UnixStream, mut stop: Stop) {
        let _open = self.counted.connection("ttrpc");
        let mut containerd = match self.connect().await {
            Ok(stream) => stream,
            Err(e) => return self.report(&e),
        };
        self.is_reported.store(false, Ordering::Relaxed);
        let past_grace = async {
            stopped(&mut stop).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            ended = copy_bidirectional_with_sizes(
                &mut client,
                &mut containerd,
                BUFFER_BYTES,
                BUFFER_BYTES,
            ) => if let Err(e) = ended {
                log::debug!("a ttrpc connection to {} ended: {e}", self.socket.display());
            },
            () = past_grace => {}
        }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        tokio::time::timeout(CONNECT, UnixStream::connect(&self.socket))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn report(&self, error: &io::Error) {
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            log::warn!(
                "containerd does not serve ttrpc at {}: {error}; clients of containerd.sock.ttrpc are \
                 disconnected",
                self.socket.display()
            );
        }
    }
}

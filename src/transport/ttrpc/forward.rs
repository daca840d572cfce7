//! Forwards ttrpc connections to containerd unchanged: bytes in both directions.
//!
//! containerd serves ttrpc at its address with `.ttrpc` appended, and clients derive that address from
//! the gRPC one. Each client connection has its own connection to containerd, with a buffer per
//! direction: a side that does not read holds the other side back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::UnixStream;

use crate::metrics::calls::Calls;
use crate::transport::limits::{CONNECT_TIMEOUT, DRAIN_GRACE, GOAWAY_TIME};
use crate::transport::ttrpc::open_calls::CountedStream;
use tokio_util::sync::CancellationToken;

/// The buffer of one direction of a connection, in bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// Forwards connections to one socket. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct TtrpcForwarder {
    socket: Arc<Path>,
    metrics: Calls,
    /// The log says that containerd does not answer, and containerd has not answered since.
    is_reported: Arc<AtomicBool>,
}

impl TtrpcForwarder {
    /// A forwarder to `socket`.
    pub(crate) fn new(socket: &Path, metrics: Calls) -> Self {
        Self { socket: Arc::from(socket), metrics, is_reported: Arc::default() }
    }

    /// Forwards one connection until either side closes it, or until [`DRAIN_GRACE`] after `stop`. Without an open call
    /// it ends after [`GOAWAY_TIME`]: a shim keeps its connection for as long as its containers run.
    pub(crate) async fn connection(self, client: UnixStream, stop: CancellationToken) {
        let _open = self.metrics.connection("ttrpc");
        let mut containerd = match self.connect().await {
            Ok(stream) => stream,
            Err(e) => return self.report(&e),
        };
        self.is_reported.store(false, Ordering::Relaxed);
        let (mut client, mut has_open_call) = CountedStream::new(client);
        let past_grace = async {
            stop.cancelled().await;
            let no_call_is_open = async {
                tokio::time::sleep(GOAWAY_TIME).await;
                let _ = has_open_call.wait_for(|is_open| !is_open).await;
            };
            let _ = tokio::time::timeout(DRAIN_GRACE, no_call_is_open).await;
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
        tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket))
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

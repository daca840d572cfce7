//! Passing calls on to a containerd as they are: unary and streams either way, metadata, trailers,
//! deadlines, and being cancelled.
//!
//! Nothing is taken apart: the body of a request is the body of the call to containerd, and so
//! back. A client that leaves drops the call, which resets containerd's stream; one that does not
//! read holds containerd back by flow control. Every client connection has a connection to
//! containerd of its own, so that no client's stall is another's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::grpc::{HEADERS, STREAMS, WINDOW};
use super::grpc_message::Body;
use crate::model::{Error, Result};

/// How long containerd may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A way to containerd for the calls of one client connection. It is made when the first call
/// wants it, and anew when it has broken.
#[derive(Debug)]
pub struct Line {
    socket: Arc<Path>,
    sender: Mutex<Option<SendRequest<Incoming>>>,
}

impl Line {
    /// A line to the containerd behind `socket`.
    pub fn new(socket: Arc<Path>) -> Self {
        Self { socket, sender: Mutex::new(None) }
    }

    /// Another line to the same containerd.
    pub fn another(&self) -> Self {
        Self::new(Arc::clone(&self.socket))
    }

    /// Passes a call on, and its answer back.
    pub async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        head.uri = uri(head.uri.path_and_query().cloned())?;
        head.version = http::Version::HTTP_2;
        let mut sender = self.sender().await?;
        let response = sender
            .send_request(Request::from_parts(head, body))
            .await
            .map_err(|e| Error::Unavailable(format!("{} broke off the call: {e}", self.name())))?;
        Ok(response.map(BodyExt::boxed_unsync))
    }

    async fn sender(&self) -> Result<SendRequest<Incoming>> {
        let mut known = self.sender.lock().await;
        if let Some(sender) = known.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connected = tokio::time::timeout(CONNECT, self.connect()).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("{} does not accept connections", self.name())))
        });
        Ok(known.insert(connected?).clone())
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>> {
        let told = |e: &dyn std::fmt::Display| {
            Error::Unavailable(format!("{} cannot be reached: {e}", self.name()))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| told(&e))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW.0)
            .initial_connection_window_size(WINDOW.1)
            .initial_max_send_streams(STREAMS as usize)
            .max_header_list_size(HEADERS)
            .max_concurrent_reset_streams(STREAMS as usize)
            .max_pending_accept_reset_streams(STREAMS as usize)
            .max_local_error_reset_streams(STREAMS as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| told(&e))?;
        // It ends with the last sender; what went wrong the calls on it say.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn name(&self) -> String {
        format!("containerd at {}", PathBuf::from(&*self.socket).display())
    }
}

/// The same path at the authority that grpc-go clients send.
fn uri(path: Option<PathAndQuery>) -> Result<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static("localhost"));
    parts.path_and_query = path;
    Uri::from_parts(parts).map_err(|e| Error::InvalidArgument(format!("the path of the call: {e}")))
}

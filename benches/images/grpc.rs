//! gRPC as h2 has it: one unary call on a stream, no more.
//!
//! h2 and not tonic: what the client takes of the processors, the server does not get.

use std::path::Path;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::Result;
use super::client::{NAMESPACE, Prepared};

/// Compressed flag and length, before each message.
pub const PREFIX: usize = 5;

/// How much of an answer may be on its way: a server should not wait for a window.
const WINDOW: u32 = 32 << 20;

/// A request's path, and its message with its length before it.
pub fn prepare(service: &str, method: &str, message: &[u8]) -> Result<Prepared> {
    let uri = Uri::try_from(format!("http://localhost/{service}/{method}"))?;
    let length = u32::try_from(message.len())?.to_be_bytes();
    Ok(Prepared { uri, bytes: Bytes::from([&[0], &length[..], message].concat()) })
}

/// One connection.
pub struct Grpc {
    requests: SendRequest<Bytes>,
    headers: HeaderMap,
    connection: JoinHandle<()>,
}

impl Grpc {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|e| format!("connecting to {}: {e}", socket.display()))?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await?;
        let connection = tokio::spawn(async move {
            // What ends a connection is seen by the call on it.
            let _ = connection.await;
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert("containerd-namespace", HeaderValue::from_static(NAMESPACE));
        Ok(Self { requests, headers, connection })
    }

    /// Makes a call, shows the answer's data as it comes, and gives back its length.
    pub async fn call(&mut self, prepared: &Prepared, mut see: impl FnMut(&[u8])) -> Result<usize> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = prepared.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, false)?;
        stream.send_data(prepared.bytes.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            length += data.len();
            see(&data);
        }
        // A refusal has its status in the headers, as it has no message.
        let trailers = body.trailers().await?;
        check(trailers.as_ref().unwrap_or(&head.headers))?;
        Ok(length)
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn check(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(code) => Err(format!(
            "status {}: {}",
            String::from_utf8_lossy(code),
            headers
                .get("grpc-message")
                .map_or_else(Default::default, |m| String::from_utf8_lossy(m.as_bytes()))
        )
        .into()),
        None => Err("the answer carries no status".into()),
    }
}

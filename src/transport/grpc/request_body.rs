//! The body of a request. It subtracts each frame that a call reads from the connection's unread data.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use crate::limits::unread_data::ConnectionUnreadData;

/// How long the server reads a body after the call has ended. The client sends until it receives the
/// status. The HTTP/2 library would drop that data silently, and the data would count as unread until the
/// connection ends.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes that the server reads after the call has ended.
const MAX_DISCARDED_BYTES: usize = 64 << 10;

/// The body of a request.
pub struct RequestBody {
    /// The drop takes it.
    body: Option<Incoming>,
    unread: Arc<ConnectionUnreadData>,
}

impl RequestBody {
    /// A body on the connection of `unread`.
    pub(crate) fn new(body: Incoming, unread: Arc<ConnectionUnreadData>) -> Self {
        Self { body: Some(body), unread }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            subtract(frame, &self.unread);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime, the process is about to exit.
        if let Ok(runtime) = Handle::try_current() {
            let discard = discard(body, Arc::clone(&self.unread));
            runtime.spawn(tokio::time::timeout(DISCARD_TIMEOUT, discard));
        }
    }
}

/// Subtracts a frame from the unread data. The scanner of the connection does not count empty frames.
fn subtract(frame: &Frame<Bytes>, unread: &ConnectionUnreadData) {
    if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
        unread.subtract(data.len());
    }
}

/// Reads and discards the data that the client still sends.
async fn discard(mut body: Incoming, unread: Arc<ConnectionUnreadData>) {
    let mut bytes = 0;
    while bytes < MAX_DISCARDED_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        subtract(&frame, &unread);
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

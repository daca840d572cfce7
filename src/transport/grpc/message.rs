//! The messages of one unary gRPC call: reading the request, sending the reply or the status.
//!
//! This module uses hyper directly. tonic's server copies every reply once more, applies no deadline
//! below its router, and its error for a message that is too large differs from that of containerd
//! (grpc-go).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::oneshot;

use crate::api::ApiMessage;
use crate::limits::client::Client;
use crate::limits::decoded_size;
use crate::limits::memory::{MemoryBudget, Reservation, SMALL};
use crate::model::{Error, Result};
use crate::service::events::subscription::Piece;
use crate::transport::conn::state::ReplyGuard;
use crate::transport::grpc::request_body::RequestBody;
use crate::transport::limits::{GRPC_MESSAGE, OFFLOAD_THRESHOLD};
use crate::transport::{Limits, status};

/// The body of every response. Only the body of a forwarded response can fail.
pub type Body = UnsyncBoxBody<Bytes, h2::Error>;

/// The bytes before a message: the compressed flag (1) and the length of the message (4).
const PREFIX_BYTES: usize = 5;

/// The message of a request, before decoding.
pub struct RawRequest {
    bytes: Vec<u8>,
    reservation: Option<Reservation>,
}

impl RawRequest {
    /// Whether decoding takes so long that the thread for large requests must do it.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes.len() > OFFLOAD_THRESHOLD
    }

    /// Decodes the message. A large message comes with its reservation of memory.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the bytes are not a message of type `M`.
    pub async fn decode<M: ApiMessage>(
        self,
        requests: &MemoryBudget,
        client: Client,
    ) -> Result<(M, Option<Reservation>)> {
        let Self { bytes, reservation } = self;
        let size = decoded_size::decoded_size::<M>(&bytes)?;
        let reservation = match reservation {
            Some(mut reservation) => {
                reservation.shrink(size);
                Some(reservation)
            }
            None => requests.reserve(client, size).await,
        };
        let message = M::parse_from_bytes(&bytes)
            .map_err(|e| Error::InvalidArgument(format!("the request is no {}: {e}", M::NAME)))?;
        Ok((message, reservation))
    }
}

/// Reads the one message of a request.
///
/// # Errors
/// [`Error::InvalidArgument`] when the body is not one message, [`Error::ResourceExhausted`] when the
/// message is too large, [`Error::DeadlineExceeded`] when it does not arrive in time.
pub async fn read(body: RequestBody, limits: &Limits, client: Client) -> Result<RawRequest> {
    let time = limits.message_time;
    let (bytes, reservation) = tokio::time::timeout(time, collect(body, limits, client))
        .await
        .map_err(|_| late(time))??;
    Ok(RawRequest { bytes, reservation })
}

async fn collect(
    mut body: RequestBody,
    limits: &Limits,
    client: Client,
) -> Result<(Vec<u8>, Option<Reservation>)> {
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    let mut message: Option<(Vec<u8>, usize)> = None;
    let mut reservation = None;
    while let Some(frame) = next_frame(&mut body, reservation.as_ref()).await? {
        let frame = frame.map_err(|e| Error::Unavailable(format!("reading the request: {e}")))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if message.is_none() {
            let head = data.split_to(data.len().min(PREFIX_BYTES - prefix.len()));
            prefix.extend_from_slice(&head);
            if let [compressed, length @ ..] = prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                let length = u32::from_be_bytes(length) as usize;
                check_prefix(*compressed, length)?;
                // While the call waits for its reservation, flow control keeps the rest at the client.
                if length > SMALL {
                    let most = decoded_size::max_decoded_size(length);
                    reservation = limits.request_memory.reserve(client, most).await;
                }
                message = Some((Vec::with_capacity(length.min(SMALL)), length));
            }
        }
        if let Some((bytes, length)) = &mut message {
            bytes.extend_from_slice(&data);
            if bytes.len() > *length {
                return Err(Error::InvalidArgument(
                    "the request carries more than one message".into(),
                ));
            }
        }
    }
    match message {
        Some((bytes, length)) if bytes.len() == length => Ok((bytes, reservation)),
        Some((bytes, length)) => Err(Error::InvalidArgument(format!(
            "the request ends after {} of its {length} bytes",
            bytes.len()
        ))),
        None => Err(Error::InvalidArgument("the request carries no message".into())),
    }
}

/// The next frame of a request. If the request has a reservation, the wait ends when the reservation is
/// overdue.
async fn next_frame(
    body: &mut RequestBody,
    reservation: Option<&Reservation>,
) -> Result<Option<std::result::Result<Frame<Bytes>, hyper::Error>>> {
    let Some(reservation) = reservation else { return Ok(body.frame().await) };
    tokio::select! {
        frame = body.frame() => Ok(frame),
        () = reservation.overdue() => Err(Error::DeadlineExceeded(
            "the request stopped on its way while others waited for its memory".into(),
        )),
    }
}

/// Reads a message of at most [`SMALL`] bytes, or the beginning of a larger one. Returns the bytes that were
/// read, and the rest of the body. As in grpc-go, the client need not have ended its request.
///
/// # Errors
/// [`Error::DeadlineExceeded`] when the message does not arrive in time, [`Error::Unavailable`] when the
/// client resets the request.
pub(crate) async fn peek(mut body: RequestBody, limits: &Limits) -> Result<(Bytes, RequestBody)> {
    let collect = async {
        let mut read = Bytes::new();
        while read.len() < SMALL && whole(&read).is_none() {
            let Some(frame) = body.frame().await else { break };
            let frame =
                frame.map_err(|e| Error::Unavailable(format!("reading the request: {e}")))?;
            let Ok(data) = frame.into_data() else { break };
            // A small message usually arrives in one piece.
            read = if read.is_empty() { data } else { Bytes::from([read, data].concat()) };
        }
        Ok(read)
    };
    let time = limits.message_time;
    let read = tokio::time::timeout(time, collect).await.map_err(|_| late(time))??;
    Ok((read, body))
}

/// The message of a body that is one uncompressed message.
pub fn whole(body: &[u8]) -> Option<&[u8]> {
    let ([0, length @ ..], message) = body.split_first_chunk::<PREFIX_BYTES>()? else {
        return None;
    };
    (u32::from_be_bytes(*length) as usize == message.len()).then_some(message)
}

fn late(time: Duration) -> Error {
    Error::DeadlineExceeded(format!("the request did not arrive whole within {time:?}"))
}

fn check_prefix(compressed: u8, length: usize) -> Result<()> {
    if compressed != 0 {
        return Err(Error::Unimplemented(
            "compressed messages are not offered here; send them plain".into(),
        ));
    }
    if length > GRPC_MESSAGE {
        return Err(Error::ResourceExhausted(format!(
            "grpc: received message larger than max ({length} vs. {GRPC_MESSAGE})"
        )));
    }
    Ok(())
}

/// The timeout that the client sends with the call: digits and a unit, as gRPC defines it.
pub fn deadline<B>(request: &Request<B>) -> Option<Duration> {
    let value = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Runs `call` until the client's deadline.
pub(crate) async fn with_deadline<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    match deadline {
        None => call.await,
        Some(time) => tokio::time::timeout(time, call)
            .await
            .unwrap_or_else(|_| Err(Error::DeadlineExceeded("context deadline exceeded".into()))),
    }
}

/// A response with one message and the status OK.
pub fn reply(message: Vec<u8>, sending: ReplyGuard) -> Response<Body> {
    let mut frames = VecDeque::with_capacity(3);
    let prefix = prefix(message.len());
    let message = if message.len() <= SMALL {
        // The copy costs less than a second frame.
        [&prefix[..], &message].concat()
    } else {
        frames.push_back(Frame::data(Bytes::copy_from_slice(&prefix)));
        message
    };
    let message = UnsentMessage { message, _sending: sending };
    frames.push_back(Frame::data(Bytes::from_owner(message)));
    frames.push_back(Frame::trailers(ok_trailers()));
    response(infallible_body(UnaryBody { frames }))
}

/// A message that the HTTP/2 library has not completely sent. The library takes all frames of a body before
/// it sends the first, so the end of the body does not mean that the client got it. So the guard lives as
/// long as the bytes.
struct UnsentMessage {
    message: Vec<u8>,
    _sending: ReplyGuard,
}

impl AsRef<[u8]> for UnsentMessage {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

/// A body that cannot fail.
pub(crate) fn infallible_body(
    body: impl HttpBody<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}

/// A response with this body.
pub fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A response with the status of `error` and no message.
pub(crate) fn error_response(error: &Error) -> Response<Body> {
    status::grpc(error).into_http()
}

/// One message with its prefix.
pub fn frame(message: &[u8]) -> Bytes {
    Bytes::from([&prefix(message.len())[..], message].concat())
}

/// One message with its prefix. When the bytes have been written to the connection, `keep` is dropped and
/// the receiver ends.
pub(crate) fn tracked_frame<T: Send + 'static>(
    message: &[u8],
    keep: T,
) -> (Bytes, oneshot::Receiver<()>) {
    let (sent, receiver) = oneshot::channel();
    let bytes = [&prefix(message.len())[..], message].concat();
    (Bytes::from_owner(TrackedBytes { bytes, _keep: keep, _sent: sent }), receiver)
}

struct TrackedBytes<T> {
    bytes: Vec<u8>,
    _keep: T,
    /// The drop ends the receiver.
    _sent: oneshot::Sender<()>,
}

impl<T> AsRef<[u8]> for TrackedBytes<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A piece of a message. The first piece carries the prefix of the whole message.
pub fn piece(piece: Piece) -> Bytes {
    match piece.total {
        Some(total) => Bytes::from([&prefix(total)[..], &piece.bytes].concat()),
        None => piece.bytes.into(),
    }
}

/// The trailers of success.
pub(crate) fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )])
}

/// The prefix of a message.
pub fn prefix(length: usize) -> [u8; PREFIX_BYTES] {
    // A reply has at most 16 MiB.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// The frames of a reply.
struct UnaryBody {
    frames: VecDeque<Frame<Bytes>>,
}

impl HttpBody for UnaryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conn::admission::Admission;
    use crate::transport::conn::state::{ConnectionState, Peer};

    #[tokio::test]
    async fn a_reply_counts_as_unsent_until_its_bytes_are_written() {
        let connection = ConnectionState::new(1, &Admission::default(), Peer::default());
        for size in [SMALL, SMALL + 1] {
            let mut body = reply(vec![7; size], connection.track_reply(None, None)).into_body();
            let mut unsent = Vec::new();
            while let Some(frame) = body.frame().await {
                unsent.extend(frame.unwrap().into_data());
            }
            drop(body);
            assert_eq!(unsent.iter().map(Bytes::len).sum::<usize>(), PREFIX_BYTES + size);
            assert!(connection.has_stalled_reply(Duration::ZERO), "{size} bytes are not sent");
            drop(unsent);
            assert!(!connection.has_stalled_reply(Duration::ZERO));
        }
    }

    #[test]
    fn deadlines_have_a_unit() {
        let parsed = |value: &str| {
            deadline(&Request::builder().header("grpc-timeout", value).body(()).unwrap())
        };
        assert_eq!(parsed("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parsed("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parsed("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parsed("10000000n"), Some(Duration::from_millis(10)));
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "5", "S", "-1S", "5é", "5s"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}

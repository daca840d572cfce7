//! How a gRPC call ended, seen in what is sent: the status is in the headers when there is nothing
//! else, and in the trailers otherwise, our own and those that are passed on alike. Until then it
//! keeps its place among the calls that have begun.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::metrics::calls::Call;
use crate::transport::conn::state::CallGuard;
use crate::transport::grpc::message::Body;

/// The response, with `call` and its `place` in it: it ends when the status is sent or the client
/// leaves.
pub fn meter(response: Response<Body>, mut call: Call, place: CallGuard) -> Response<Body> {
    if let Some(code) = code(response.headers()) {
        call.ends(code);
        return response;
    }
    response.map(|body| MeteredBody { body, call: Some(call), _place: place }.boxed_unsync())
}

/// UNKNOWN for a status that is no number.
fn code(headers: &HeaderMap) -> Option<i32> {
    let status = headers.get("grpc-status")?;
    Some(status.to_str().ok().and_then(|s| s.parse().ok()).unwrap_or(2))
}

struct MeteredBody {
    body: Body,
    call: Option<Call>,
    _place: CallGuard,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let trailers = match &frame {
            Some(Ok(frame)) => frame.trailers_ref(),
            _ => None,
        };
        if let Some(code) = trailers.and_then(code)
            && let Some(mut call) = self.call.take()
        {
            call.ends(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Records the status of a gRPC call for the metrics. The status is in the headers of a response
//! without a body, and in the trailers of every other response, forwarded ones included. Until the
//! response ends, the call counts as in flight.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::metrics::calls::Call;
use crate::transport::conn::state::CallGuard;
use crate::transport::grpc::message::Body;

/// Attaches `call` and its `guard` to the response. The call ends when hyper takes the status, or
/// when the client disconnects.
pub(crate) fn meter(response: Response<Body>, mut call: Call, guard: CallGuard) -> Response<Body> {
    if let Some(code) = code(response.headers()) {
        call.set_code(code);
        return response;
    }
    response.map(|body| MeteredBody { body, call: Some(call), _guard: guard }.boxed_unsync())
}

/// The status code in `headers`. A status that is not a number counts as UNKNOWN.
fn code(headers: &HeaderMap) -> Option<i32> {
    let status = headers.get("grpc-status")?;
    Some(status.to_str().ok().and_then(|s| s.parse().ok()).unwrap_or(2))
}

struct MeteredBody {
    body: Body,
    call: Option<Call>,
    _guard: CallGuard,
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
            call.set_code(code);
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

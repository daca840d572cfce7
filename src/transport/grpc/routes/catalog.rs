//! The service `lmdbimages.v1.Catalog`, the same on every gRPC socket. `readonly.sock` has only the methods
//! that do not change images.

use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::oneshot;

use crate::limits::memory::Reservation;
use crate::model::{Error, Result};
use crate::service::catalog::watch::Watch;
use crate::service::catalog::{Catalog, Pages};
use crate::service::codec::encode;
use crate::service::{CallContext, Reply};
use crate::transport::conn::state::ConnectionState;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::server::IncomingCall;
use crate::transport::limits::CATALOG;
use crate::transport::status;
use tokio_util::sync::CancellationToken;

/// The methods that do not change images.
pub(crate) const READ_METHODS: [&str; 7] =
    ["Head", "Watch", "Changes", "History", "List", "StreamList", "Count"];

/// Answers a call of the Catalog service.
pub(crate) async fn answer(
    catalog: &Catalog,
    call: IncomingCall,
    method: &str,
    stop: CancellationToken,
) -> Result<Response<Body>> {
    let catalog = catalog.clone();
    match method {
        "Head" => call.unary(async move |c, m| catalog.head(&c, m).await).await,
        "Changes" => {
            let changes = async move |c: CallContext, m| {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Err(Error::shutting_down()),
                    reply = catalog.changes(&c, m) => reply,
                }
            };
            call.unary(changes).await
        }
        "History" => call.unary(async move |c, m| catalog.history(&c, m).await).await,
        "Undo" => call.unary(async move |c, m| catalog.undo(&c, m).await).await,
        "List" => call.unary(async move |c, m| catalog.list(&c, m).await).await,
        "Count" => call.unary(async move |c, m| catalog.count(&c, m).await).await,
        "Apply" => {
            let apply = async move |c: CallContext, m| {
                let results = catalog.apply(&c, m).await?;
                catalog.sized_reply(&c, encode(&status::apply_response(results))?).await
            };
            call.unary(apply).await
        }
        "Watch" => {
            let (client, connection) = (call.client(), call.connection());
            let watch = catalog.watch(client, call.message().await?)?;
            let source = Source::Watch(Box::new(watch));
            Ok(respond(OpenStream { source, connection, stop, in_flight: None }))
        }
        "StreamList" => {
            let (context, connection) = (call.context()?, call.connection());
            let pages = catalog.stream_list(context, call.message().await?)?;
            let source = Source::Pages(Box::new(pages));
            Ok(respond(OpenStream { source, connection, stop, in_flight: None }))
        }
        _ => Err(Error::Unimplemented(format!("unknown method {method} of service {CATALOG}"))),
    }
}

/// The source of the messages of a stream.
enum Source {
    Watch(Box<Watch>),
    Pages(Box<Pages>),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Reply>> {
        match self {
            Self::Watch(watch) => watch.next().await.map(Some),
            Self::Pages(pages) => pages.next().await,
        }
    }
}

/// An open stream. It has at most one message in flight: it builds the next message after the previous one
/// has been written to the connection. So a client that does not read takes the memory of one message.
struct OpenStream {
    source: Source,
    connection: std::sync::Arc<ConnectionState>,
    stop: CancellationToken,
    in_flight: Option<oneshot::Receiver<()>>,
}

impl OpenStream {
    async fn next(&mut self) -> Result<Option<Reply>> {
        if let Some(in_flight) = self.in_flight.take() {
            // The sender is dropped, without a value, when the message has been written.
            let _ = in_flight.await;
        }
        self.source.next().await
    }

    fn frame(&mut self, reply: Reply) -> Frame<bytes::Bytes> {
        let Reply { message, reservation } = reply;
        let guard = reservation
            .map(|reservation: Reservation| self.connection.track_reply(None, Some(reservation)));
        let (frame, in_flight) = message::tracked_frame(&message, guard);
        self.in_flight = Some(in_flight);
        Frame::data(frame)
    }
}

/// Streams the messages. The stream ends when the client leaves, and when the daemon shuts down.
fn respond(open: OpenStream) -> Response<Body> {
    let frames = stream::unfold(Some(open), |open| async {
        let mut open = open?;
        let stop = open.stop.clone();
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::shutting_down()),
            next = open.next() => next,
        };
        Some(match next {
            Ok(Some(reply)) => (open.frame(reply), Some(open)),
            Ok(None) => (Frame::trailers(message::ok_trailers()), None),
            Err(why) => (Frame::trailers(status::trailers(&why)), None),
        })
    });
    message::response(message::infallible_body(StreamBody::new(frames.map(Ok))))
}

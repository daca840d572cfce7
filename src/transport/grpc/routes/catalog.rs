//! The service `lmdbimages.v1.Catalog`, the same on every gRPC socket; on `readonly.sock` without what
//! changes images.

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
use crate::transport::conn::listener::{Shutdown, wait};
use crate::transport::conn::state::ConnectionState;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::server::IncomingCall;
use crate::transport::limits::CATALOG;
use crate::transport::status;

/// The methods that change nothing.
pub const READING: [&str; 7] =
    ["Head", "Watch", "Changes", "History", "List", "StreamList", "Count"];

/// Answers a call of the Catalog service.
pub async fn answer(
    catalog: &Catalog,
    call: IncomingCall,
    method: &str,
    stop: Shutdown,
) -> Result<Response<Body>> {
    let catalog = catalog.clone();
    match method {
        "Head" => call.unary(async move |c, m| catalog.head(&c, m).await).await,
        "Changes" => {
            let changes = async move |c: CallContext, m| {
                let mut stop = stop;
                tokio::select! {
                    biased;
                    () = wait(&mut stop) => Err(Error::shutting_down()),
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
                catalog.checked(&c, encode(&status::apply_response(results))?).await
            };
            call.unary(apply).await
        }
        "Watch" => {
            let (client, connection) = (call.client(), call.connection());
            let watch = catalog.watch(client, call.message().await?)?;
            let source = Source::Watch(Box::new(watch));
            Ok(respond(Open { source, connection, stop, unsent: None }))
        }
        "StreamList" => {
            let (context, connection) = (call.context()?, call.connection());
            let pages = catalog.stream_list(context, call.message().await?)?;
            let source = Source::Pages(Box::new(pages));
            Ok(respond(Open { source, connection, stop, unsent: None }))
        }
        _ => Err(Error::Unimplemented(format!("unknown method {method} of service {CATALOG}"))),
    }
}

/// Where the messages of a stream come from.
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

/// An open stream. It has one message on its way at a time: the next one is read when that is written to the
/// connection. So a client that does not read holds one message.
struct Open {
    source: Source,
    connection: std::sync::Arc<ConnectionState>,
    stop: Shutdown,
    unsent: Option<oneshot::Receiver<()>>,
}

impl Open {
    async fn next(&mut self) -> Result<Option<Reply>> {
        if let Some(unsent) = self.unsent.take() {
            // It ends without a value.
            let _ = unsent.await;
        }
        self.source.next().await
    }

    fn frame(&mut self, reply: Reply) -> Frame<bytes::Bytes> {
        let Reply { message, hold } = reply;
        let guard = hold.map(|hold: Reservation| self.connection.track_reply(None, Some(hold)));
        let (frame, unsent) = message::tracked_frame(&message, guard);
        self.unsent = Some(unsent);
        Frame::data(frame)
    }
}

/// Streams the messages. The stream ends when the client leaves, and when the daemon shuts down.
fn respond(open: Open) -> Response<Body> {
    let frames = stream::unfold(Some(open), |open| async {
        let mut open = open?;
        let mut stop = open.stop.clone();
        let next = tokio::select! {
            biased;
            () = wait(&mut stop) => Err(Error::shutting_down()),
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

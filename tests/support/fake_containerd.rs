//! An HTTP/2 server that stands where a containerd would: it does on demand what a real one does
//! only in rare moments, and tells what became of each call. (What a real one does is in
//! `tests/shell` and `scripts/soak/chaos`.)

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

const MANY: usize = 100_000;

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("on purpose")]
    OnPurpose(#[source] h2::Error),
    #[error("the request broke off")]
    Request(#[source] hyper::Error),
}

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, Failure>;

/// What a call is answered that the daemon makes of a containerd.
#[derive(Debug, Clone)]
pub enum Scripted {
    /// This message, and OK.
    Message(Vec<u8>),
    /// Nothing but a code and a sentence.
    Refusal(i32, String),
    /// A stream that stays open and brings nothing.
    Stream,
}

/// What was seen of the calls, and what some are answered.
#[derive(Debug, Default)]
struct Seen {
    /// By path.
    script: Mutex<BTreeMap<&'static str, Scripted>>,
    /// The headers of the last call.
    headers: Mutex<HeaderMap>,
    /// Calls under way, of `/test.Upstream/` only, as in what follows.
    calls: AtomicUsize,
    /// The connections that they came by.
    lines: Mutex<BTreeSet<usize>>,
    /// The connections that the daemon's own calls came by.
    own_lines: Mutex<BTreeSet<usize>>,
    /// All connections, also those of the daemon's own calls.
    accepted: AtomicUsize,
}

/// A running server. Its methods are in [`answer`].
pub struct FakeContainerd {
    socket: PathBuf,
    seen: Arc<Seen>,
    stop: watch::Sender<()>,
    accepting: JoinHandle<()>,
    /// The names of calls whose end was seen, however they ended.
    pub ended: mpsc::UnboundedReceiver<String>,
}

/// In every call; dropped with it.
struct Call {
    name: String,
    seen: Arc<Seen>,
    ended: mpsc::UnboundedSender<String>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.seen.calls.fetch_sub(1, Ordering::SeqCst);
        let _ = self.ended.send(std::mem::take(&mut self.name));
    }
}

impl FakeContainerd {
    pub fn start(socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (ends, ended) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(());
        let seen = Arc::<Seen>::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&seen), ends, stopping));
        Self { socket: socket.into(), seen, stop, accepting, ended }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Answers calls of that path so from now on; others of the daemon's own are UNIMPLEMENTED.
    pub fn script(&self, path: &'static str, answer: Scripted) {
        self.seen.script.lock().unwrap().insert(path, answer);
    }

    /// The headers of the last call.
    pub fn headers(&self) -> HeaderMap {
        self.seen.headers.lock().unwrap().clone()
    }

    pub fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    /// How many connections there were.
    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// How many connections brought calls.
    pub fn lines(&self) -> usize {
        self.seen.lines.lock().unwrap().len()
    }

    /// How many connections brought the daemon's own calls.
    pub fn own_lines(&self) -> usize {
        self.seen.own_lines.lock().unwrap().len()
    }

    /// Sends GOAWAY on all connections. Calls in flight go on, and the server still accepts connections.
    pub fn say_goodbye(&self) {
        self.stop.send(()).unwrap();
    }

    /// As if killed: every connection breaks.
    pub async fn kill(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }

    /// Waits until `what` holds.
    pub async fn until(&self, what: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !what(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect("it did not come about");
    }
}

async fn accept(
    listener: UnixListener,
    seen: Arc<Seen>,
    ends: mpsc::UnboundedSender<String>,
    stop: watch::Receiver<()>,
) {
    // Dropped with this task, it ends them all.
    let mut connections = JoinSet::new();
    for number in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        let (seen, ends, stop) = (Arc::clone(&seen), ends.clone(), stop.clone());
        connections.spawn(connection(number, stream, seen, ends, stop));
    }
}

async fn connection(
    number: usize,
    stream: UnixStream,
    seen: Arc<Seen>,
    ends: mpsc::UnboundedSender<String>,
    mut stop: watch::Receiver<()>,
) {
    stop.mark_unchanged();
    let service = service_fn(|request: Request<Incoming>| {
        let name = request.uri().path().strip_prefix("/test.Upstream/").map(str::to_owned);
        if name.is_none() {
            seen.own_lines.lock().unwrap().insert(number);
        }
        let call = name.map(|name| {
            *seen.headers.lock().unwrap() = request.headers().clone();
            seen.lines.lock().unwrap().insert(number);
            seen.calls.fetch_add(1, Ordering::SeqCst);
            Call { name, seen: Arc::clone(&seen), ended: ends.clone() }
        });
        let scripted = seen.script.lock().unwrap().get(request.uri().path()).cloned();
        async move {
            match call {
                Some(call) => answer(call, request.into_body()).await,
                // What the daemon asks of a containerd on its own account.
                None => Ok(scripted.map_or_else(
                    || headers(&[("grpc-status", "12")], stream::empty()),
                    Scripted::answer,
                )),
            }
        }
    });
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MANY as u32)
        .max_pending_accept_reset_streams(MANY)
        .max_local_error_reset_streams(MANY)
        // As grpc-go, whose connection is never held back by its streams.
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1 << 30)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(http);
    loop {
        tokio::select! {
            _ = http.as_mut() => return,
            changed = stop.changed() => match changed {
                Ok(()) => http.as_mut().graceful_shutdown(),
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Scripted {
    fn answer(self) -> Response<Answer> {
        match self {
            Self::Message(bytes) => {
                headers(&[], stream::iter([Ok(data(&message(&bytes))), Ok(trailers(&OK))]))
            }
            Self::Refusal(code, sentence) => {
                let fields = [("grpc-status", &*code.to_string()), ("grpc-message", &sentence)];
                headers(&fields, stream::empty())
            }
            Self::Stream => headers(&[], stream::pending()),
        }
    }
}

/// What each method does.
async fn answer(call: Call, mut body: Incoming) -> Result<Response<Answer>, Failure> {
    let (method, argument) = call.name.split_once('/').unwrap_or((&call.name, ""));
    let reason = argument.parse().map_or(Reason::INTERNAL_ERROR, |n: u32| Reason::from(n));
    Ok(match method {
        // Sends back each piece as it comes; metadata before and after.
        "Echo" => {
            let leading = [("leading", "one"), ("leading", "two"), ("leading-bin", "AAEC/w")];
            headers(&leading, echo(call, body))
        }
        // Reads everything and says how many bytes that was.
        "Count" => {
            let mut count = 0u64;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(Failure::Request)?;
                count += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            headers(
                &[],
                pieces_of(call, vec![Ok(data(&message(&count.to_be_bytes()))), Ok(trailers(&OK))]),
            )
        }
        // Messages of 16 KiB without end.
        "Flood" => {
            let piece = Bytes::from(message(&[7; 16 << 10]));
            let pieces = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            headers(&[], Holding { _call: call, inner: Box::pin(pieces) })
        }
        // Never answers.
        "Hang" => std::future::pending().await,
        // Begins to answer and never goes on; reads nothing of the request.
        "HangOpen" => {
            let body = Holding { _call: (call, body), inner: Box::pin(stream::pending()) };
            headers(&[], body)
        }
        // A refusal as grpc-go writes it: headers only.
        "Refuse" => headers(&REFUSAL, pieces_of(call, vec![])),
        // The same after a message, without having read the request.
        "RefuseLate" => {
            let frames = vec![Ok(data(&message(b"x"))), Ok(trailers(&REFUSAL))];
            headers(&[], pieces_of(call, frames))
        }
        // A reset, instead of an answer or in the middle of one.
        "Reset" => return Err(Failure::OnPurpose(reason.into())),
        "ResetLate" => {
            let broken = Err(Failure::OnPurpose(reason.into()));
            headers(&[], pieces_of(call, vec![Ok(data(&message(b"x"))), broken]))
        }
        other => panic!("no method {other}"),
    })
}

/// FAILED_PRECONDITION, with details: the bytes 1, 2, 255.
const REFUSAL: [(&str, &str); 4] = [
    ("grpc-status", "9"),
    ("grpc-message", "not%20now%20%E2%82%AC"),
    ("grpc-status-details-bin", "AQL/"),
    ("reason-bin", "AAEC/w"),
];

fn trailers(fields: &[(&str, &str)]) -> Frame<Bytes> {
    Frame::trailers(fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect())
}

const OK: [(&str, &str); 3] =
    [("grpc-status", "0"), ("trailing", "three"), ("trailing-bin", "//79")];

/// A gRPC message.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn data(bytes: &[u8]) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes))
}

type Piece = Result<Frame<Bytes>, Failure>;

/// Holds what belongs to the call for as long as the body lives.
struct Holding<C, S> {
    _call: C,
    inner: std::pin::Pin<Box<S>>,
}

impl<C: Unpin, S: Stream<Item = Piece>> Stream for Holding<C, S> {
    type Item = Piece;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        self.inner.as_mut().poll_next(cx)
    }
}

fn pieces_of(call: Call, pieces: Vec<Piece>) -> impl Stream<Item = Piece> + Send + 'static {
    Holding { _call: call, inner: Box::pin(stream::iter(pieces)) }
}

fn echo(call: Call, body: Incoming) -> impl Stream<Item = Piece> + Send + 'static {
    let pieces = stream::unfold(Some(body), |body| async {
        let mut body = body?;
        loop {
            return Some(match body.frame().await {
                // h2 takes a hundred empty frames from a connection; grpc-go sends none.
                Some(Ok(piece)) if piece.data_ref().is_some_and(Bytes::is_empty) => continue,
                Some(piece) => (piece.map_err(Failure::Request), Some(body)),
                None => (Ok(trailers(&OK)), None),
            });
        }
    });
    Holding { _call: call, inner: Box::pin(pieces) }
}

fn headers(
    fields: &[(&str, &str)],
    body: impl Stream<Item = Piece> + Send + 'static,
) -> Response<Answer> {
    // Nothing to come is said in the headers, as grpc-go does.
    let body = if fields.first().is_some_and(|(name, _)| *name == "grpc-status") {
        http_body_util::Empty::new()
            .map_err(|never: Infallible| -> Failure { match never {} })
            .boxed_unsync()
    } else {
        StreamBody::new(body).boxed_unsync()
    };
    let mut response = Response::new(body);
    let map = response.headers_mut();
    map.insert("content-type", HeaderValue::from_static("application/grpc"));
    for (name, value) in fields {
        map.append(
            name.parse::<http::HeaderName>().unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    response
}

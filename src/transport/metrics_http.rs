//! Giving out metrics: HTTP/1, `GET /metrics`, nothing else.
//!
//! A scrape has a connection to itself, for a bounded time, and few are open at a time. One that waits
//! for its client gives way to a new one: clients that connect and say nothing stop no scrape.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};

use crate::log_throttle::throttled_log;
use crate::model::Result;
use crate::transport::conn::listener::{Shutdown, wait};

/// Connections at a time. One more takes the place of the oldest that waits for its client.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// What a scrape gets: the text format of OpenMetrics.
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where scrapes come in.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// The open connections, the oldest first.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    /// Its request has come, and the answer is being made.
    is_answering: Arc<AtomicBool>,
}

impl Connections {
    /// Waits until one has ended; for ever while there is none.
    async fn next_ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Makes room for one more: the oldest that waits for its client is closed. While all are being
    /// answered, this waits for the first of them, which takes no client to end.
    async fn make_room(&mut self) {
        self.open.retain(|connection| !connection.task.is_finished());
        while self.open.len() >= MAX_CONNECTIONS {
            let waits = |c: &Connection| !c.is_answering.load(Ordering::Relaxed);
            match self.open.iter().position(waits).and_then(|oldest| self.open.remove(oldest)) {
                Some(oldest) => oldest.task.abort(),
                None => self.next_ended().await,
            }
        }
    }

    fn add(
        &mut self,
        is_answering: Arc<AtomicBool>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(task);
        self.open.push_back(Connection { task, is_answering });
    }
}

/// Answers scrapes with what `text` gives, until `stop`.
pub async fn run<F, T>(listener: Listener, mut stop: Shutdown, text: F)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<String>> + Send + 'static,
{
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // What is under way is cut off: it changes nothing.
            () = wait(&mut stop) => return,
            () = connections.next_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(e) => {
                log::debug!("metrics: cannot accept a connection: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            () = wait(&mut stop) => return,
            () = connections.make_room() => {}
        }
        let is_answering = Arc::new(AtomicBool::new(false));
        connections.add(Arc::clone(&is_answering), serve(stream, is_answering, text.clone()));
    }
}

/// Answers the one request of a connection.
async fn serve<F, T>(stream: Box<dyn Stream>, is_answering: Arc<AtomicBool>, text: F)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<String>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let (text, is_answering) = (text.clone(), Arc::clone(&is_answering));
        async move {
            is_answering.store(true, Ordering::Relaxed);
            let response = answer(&request, text).await;
            // From here on it is the client that is waited for.
            is_answering.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        // Making it panics when the clock is out of its years.
        .auto_date_header(false)
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(tokio::time::timeout(CONNECTION_TIMEOUT, http).await, Ok(Ok(()))) {
        log::debug!("metrics: a scrape was broken off");
    }
}

async fn answer<T>(request: &Request<Incoming>, text: impl Fn() -> T) -> Response<Full<Bytes>>
where
    T: Future<Output = Result<String>>,
{
    let plain = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "only /metrics is here\n".into());
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
    }
    match text().await {
        Ok(text) => {
            let mut response = plain(StatusCode::OK, text);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT));
            response
        }
        Err(e) => {
            throttled_log!(Error, "metrics: {e}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"))
        }
    }
}

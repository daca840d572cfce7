//! The metrics endpoint: HTTP/1, `GET /metrics`, and the checks `GET /health` and `GET /alive`. Kubernetes can
//! make them while it can run no command in a container.
//!
//! Each scrape has a connection of its own, with a timeout, and the number of open connections is
//! limited. At the limit, the server closes the oldest connection that waits for its client, so
//! silent clients cannot block a scrape.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};

use crate::clock;
use crate::log_throttle::throttled_log;
use crate::model::Result;
use crate::model::printable::escaped;
use tokio_util::sync::CancellationToken;

/// Connections at a time. For one more, the server closes the oldest that waits for its client.
const MAX_CONNECTIONS: usize = 16;

/// How long the server waits for a client before another connection may take the place of this one. The request
/// of a scrape has usually arrived before its connection is accepted, so this is enough even in a flood.
const MIN_CLIENT_WAIT: Duration = Duration::from_millis(5);

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds since 1970 that a date of HTTP can show: to the end of the year 9999.
const HTTP_YEARS: Range<i64> = 0..253_402_300_800;

/// The pause after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The content type of a scrape: the text format of OpenMetrics.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The socket that accepts scrapes.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

/// The result of a check, as a sentence for a person: the error if the check failed.
pub(crate) type Verdict = std::result::Result<String, String>;

/// The pages of the endpoint.
pub(crate) trait Pages: Clone + Send + Sync + 'static {
    /// The metrics.
    fn metrics(&self) -> impl Future<Output = Result<String>> + Send;

    /// Whether the process does its work.
    fn health(&self) -> impl Future<Output = Verdict> + Send;

    /// Whether the process answers: the error if a restart of it would help.
    fn alive(&self) -> impl Future<Output = Verdict> + Send;
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
    waiting: WaitingSince,
}

/// Since when the server waits for the client; `None` before the connection's task has run, and while the server
/// builds the answer.
#[derive(Clone, Debug, Default)]
struct WaitingSince(Arc<Mutex<Option<Instant>>>);

impl WaitingSince {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock() = since;
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

impl Connections {
    /// Waits until a connection has ended; forever while no connection is open.
    async fn next_ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Makes room for one more: closes the oldest connection that waits for its client, once it has waited for
    /// [`MIN_CLIENT_WAIT`]. While the server is answering all of them, waits for the first to end, which needs
    /// no client.
    async fn make_room(&mut self) {
        self.open.retain(|connection| !connection.task.is_finished());
        while self.open.len() >= MAX_CONNECTIONS {
            let waiting = self.open.iter().enumerate();
            let oldest = waiting.filter_map(|(n, c)| Some((c.waiting.get()?, n))).min();
            let Some((since, oldest)) = oldest else {
                let _ = tokio::time::timeout(MIN_CLIENT_WAIT, self.next_ended()).await;
                continue;
            };
            let rest = MIN_CLIENT_WAIT.saturating_sub(since.elapsed());
            if rest.is_zero() {
                if let Some(oldest) = self.open.remove(oldest) {
                    oldest.task.abort();
                }
            } else {
                let _ = tokio::time::timeout(rest, self.next_ended()).await;
            }
        }
    }

    fn add(&mut self, waiting: WaitingSince, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(task.boxed());
        self.open.push_back(Connection { task, waiting });
    }
}

/// Answers scrapes with what `pages` shows, until `stop`.
pub(crate) async fn run(listener: Listener, stop: CancellationToken, pages: impl Pages) {
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // Cutting off open scrapes is safe: a scrape changes nothing.
            () = stop.cancelled() => return,
            () = connections.next_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(e) => {
                log::debug!("metrics: cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = connections.make_room() => {}
        }
        let waiting = WaitingSince::default();
        connections.add(waiting.clone(), serve(stream, waiting, pages.clone()));
    }
}

/// Answers the one request of a connection.
async fn serve(stream: Box<dyn Stream>, waiting: WaitingSince, pages: impl Pages) {
    waiting.set(Some(Instant::now()));
    if !HTTP_YEARS.contains(&clock::now().seconds) {
        if !matches!(tokio::time::timeout(REQUEST_TIMEOUT, refuse(stream)).await, Ok(Ok(()))) {
            log::debug!("metrics: a scrape was broken off");
        }
        return;
    }
    let service = service_fn(move |request| {
        let (pages, waiting) = (pages.clone(), waiting.clone());
        async move {
            waiting.set(None);
            let response = answer(&request, &pages).await;
            // From here on the connection waits for its client.
            waiting.set(Some(Instant::now()));
            Ok::<_, Infallible>(response)
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(tokio::time::timeout(CONNECTION_TIMEOUT, http).await, Ok(Ok(()))) {
        log::debug!("metrics: a scrape was broken off");
    }
}

/// Refuses a scrape without hyper, which formats the date for a header and panics outside of
/// [`HTTP_YEARS`].
async fn refuse(mut stream: Box<dyn Stream>) -> io::Result<()> {
    const WHY: &str = "the system's clock shows a year before 1970 or after 9999: set the clock\n";
    throttled_log!(Warn, "metrics: a scrape is refused: {}", WHY.trim_end());
    // Bytes that are unread when the connection closes would reset it.
    let _ = stream.read(&mut [0; 8192]).await?;
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{WHY}", WHY.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

async fn answer(request: &Request<Incoming>, pages: &impl Pages) -> Response<Full<Bytes>> {
    let plain = |status, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    let path = request.uri().path();
    if !["/metrics", "/health", "/alive"].contains(&path) {
        return plain(StatusCode::NOT_FOUND, "only /metrics, /health and /alive are here\n".into());
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
    }
    let verdict = match path {
        "/health" => Some(pages.health().await),
        "/alive" => Some(pages.alive().await),
        _ => None,
    };
    if let Some(verdict) = verdict {
        let status = if verdict.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (Ok(text) | Err(text)) = verdict;
        // The reason may have words of containerd or of a server in it.
        return plain(status, format!("{}\n", escaped(&text)));
    }
    match pages.metrics().await {
        Ok(text) => {
            let mut response = plain(StatusCode::OK, text);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
            response
        }
        Err(e) => {
            throttled_log!(Error, "metrics: {e}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many connections as there may be. The server waits for the client of each since `since`.
    fn full(since: Option<Instant>) -> Connections {
        let mut connections = Connections::default();
        for _ in 0..MAX_CONNECTIONS {
            let waiting = WaitingSince::default();
            waiting.set(since);
            connections.add(waiting, std::future::pending());
        }
        connections
    }

    #[tokio::test]
    async fn a_connection_keeps_its_place_until_its_request_can_arrive() {
        let since = Instant::now();
        let mut connections = full(Some(since));
        connections.make_room().await;
        assert!(since.elapsed() >= MIN_CLIENT_WAIT);
        assert_eq!(connections.open.len(), MAX_CONNECTIONS - 1);
    }

    #[tokio::test]
    async fn a_connection_whose_task_has_not_run_keeps_its_place() {
        let mut connections = full(None);
        let other = WaitingSince::default();
        connections.open[3].waiting = other.clone();
        let aborted = connections.open[3].task.clone();
        let made = tokio::time::timeout(10 * MIN_CLIENT_WAIT, connections.make_room()).await;
        assert!(made.is_err(), "a place was taken");
        other.set(Some(Instant::now()));
        connections.make_room().await;
        while !aborted.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(connections.open.len(), MAX_CONNECTIONS - 1);
    }
}

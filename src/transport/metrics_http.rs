//! The metrics endpoint: HTTP/1, `GET /metrics`, nothing else.
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};

use crate::clock;
use crate::log_throttle::throttled_log;
use crate::model::Result;
use crate::transport::conn::listener::{Shutdown, wait};

/// Connections at a time. For one more, the server closes the oldest that waits for its client.
const MAX_CONNECTIONS: usize = 16;

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
    /// The request has arrived, and the server builds the answer.
    is_answering: Arc<AtomicBool>,
}

impl Connections {
    /// Waits until a connection has ended; forever while no connection is open.
    async fn next_ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.open.retain(|connection| !connection.task.is_finished());
    }

    /// Makes room for one more: closes the oldest connection that waits for its client. While the
    /// server is answering all of them, waits for the first to end, which needs no client.
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

/// Answers scrapes with the text that `text` returns, until `stop`.
pub async fn run<F, T>(listener: Listener, mut stop: Shutdown, text: F)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<String>> + Send + 'static,
{
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // Cutting off open scrapes is safe: a scrape changes nothing.
            () = wait(&mut stop) => return,
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
    if !HTTP_YEARS.contains(&clock::now().seconds) {
        if !matches!(tokio::time::timeout(REQUEST_TIMEOUT, refuse(stream)).await, Ok(Ok(()))) {
            log::debug!("metrics: a scrape was broken off");
        }
        return;
    }
    let service = service_fn(move |request| {
        let (text, is_answering) = (text.clone(), Arc::clone(&is_answering));
        async move {
            is_answering.store(true, Ordering::Relaxed);
            let response = answer(&request, text).await;
            // From here on the connection waits for its client.
            is_answering.store(false, Ordering::Relaxed);
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

//! Giving out metrics: HTTP/1, `GET /metrics`, nothing else.
//!
//! A scrape has a connection to itself, and few may run at a time, each for a bounded time.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::listener::{Stop, stopped};
use crate::model::Result;

/// So many scrapes at a time; one more is closed at once.
const AT_A_TIME: usize = 8;

/// How long a scrape may take in all.
const TIME: Duration = Duration::from_secs(10);

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

/// Answers scrapes with what `text` gives, until `stop`.
pub async fn run<F, T>(listener: Listener, mut stop: Stop, text: F)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut scrapes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // What is under way is cut off: it changes nothing.
            () = stopped(&mut stop) => return,
            Some(_) = scrapes.join_next() => continue,
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
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let text = text.clone();
        scrapes.spawn(async move {
            let service = service_fn(move |request| {
                let text = text.clone();
                async move { Ok::<_, Infallible>(answer(&request, text).await) }
            });
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                // Making it panics when the clock is out of its years.
                .auto_date_header(false)
                .header_read_timeout(TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if !matches!(tokio::time::timeout(TIME, http).await, Ok(Ok(()))) {
                log::debug!("metrics: a scrape was broken off");
            }
            drop(place);
        });
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
            log::error!("metrics: {e}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"))
        }
    }
}

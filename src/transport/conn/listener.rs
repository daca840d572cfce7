//! Accepting connections, the same way for both protocols.
//!
//! A connection over the limit is closed at once: its client gets an error instead of waiting. When
//! file handles run out, accepting pauses instead of spinning; connections that are open go on.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::log_throttle::throttled_log;
use crate::transport::Limits;
use crate::transport::conn::fair;
use crate::transport::conn::workers::WorkerPool;

/// The first and the longest pause after a failed accept.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Turns true when the daemon stops.
pub type Shutdown = watch::Receiver<bool>;

/// Waits until the daemon stops.
pub async fn wait(stop: &mut Shutdown) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts from `listener` and runs `serve` for each connection, until `stop`; then lets the
/// connections end, which `serve` is told by its own `stop`, for `limits.drain_time`.
/// `name` is the socket's in the log.
pub async fn run<S, F>(
    name: &str,
    listener: UnixListener,
    limits: &Limits,
    threads: &WorkerPool,
    stop: Shutdown,
    serve: S,
) where
    S: Fn(UnixStream, Shutdown) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    let mut pause = PAUSE.0;
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = wait(&mut stopping) => break,
            // Ended connections are taken off the set as they end.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = PAUSE.0;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    limits.metrics.refused.inc();
                    if !std::mem::replace(&mut full, true) {
                        throttled_log!(
                            Warn,
                            "{name}: {} connections are open, further ones are closed",
                            limits.connections
                        );
                    }
                    continue;
                };
                full = false;
                let (serve, stop, socket) = (serve.clone(), stop.clone(), name.to_owned());
                let process = stream.peer_cred().ok().and_then(|client| client.pid());
                threads.spawn(&mut connections, process, async move {
                    fair::next_round().await;
                    // Readiness is told to the thread that the stream was made on.
                    match stream.into_std().and_then(UnixStream::from_std) {
                        Ok(stream) => serve(stream, stop).await,
                        Err(e) => {
                            throttled_log!(Error, "{socket}: a connection cannot be served: {e}")
                        }
                    }
                    drop(place);
                });
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                if pause == PAUSE.0 {
                    log::error!("{name}: cannot accept a connection: {e}; trying again");
                }
                tokio::select! {
                    () = wait(&mut stopping) => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_time, drained).await.is_err() {
        log::warn!("{name}: {} connections did not end in time and are closed", connections.len());
        connections.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connections_of_one_process_share_a_thread_of_two() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (end, stop) = watch::channel(false);
        let (served, mut where_served) = tokio::sync::mpsc::unbounded_channel();
        let serve = move |_, mut stop| {
            served.send(std::thread::current().id()).unwrap();
            async move { wait(&mut stop).await }
        };
        let (threads, limits) = (WorkerPool::of(2).unwrap(), Limits::default());
        let clients = async {
            let mut open = Vec::new();
            for _ in 0..4 {
                open.push(UnixStream::connect(&socket).await.unwrap());
            }
            let mut on = Vec::new();
            while on.len() < open.len() {
                on.push(where_served.recv().await.unwrap());
            }
            end.send(true).unwrap();
            on.dedup();
            on.len()
        };
        let (_, on) = tokio::join!(run("s", listener, &limits, &threads, stop, serve), clients);
        assert_eq!(on, 1, "they come from one process");
    }
}

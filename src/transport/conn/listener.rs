//! The accept loop, the same for both protocols.
//!
//! The server closes a connection over the limit at once: the client gets an error instead of
//! waiting. When the process has no file descriptors left, the accept loop pauses instead of
//! spinning; open connections go on.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::log_throttle::throttled_log;
use crate::transport::Limits;
use crate::transport::conn::fair;
use crate::transport::conn::workers::WorkerPool;

/// The pause after the first failed accept. It doubles with each further failure.
const MIN_ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// The longest pause after a failed accept.
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// A shortage of file descriptors has ended when no accept failed for this long. The log has one line a
/// shortage.
const SHORTAGE_END: Duration = Duration::from_secs(10);

/// Accepts from `listener` and runs `serve` for each connection, until `stop`. Then the connections,
/// which see the shutdown by their own `stop`, have `limits.drain_time` to end. Log lines name the
/// socket `name`.
pub async fn run<S, F>(
    name: &str,
    listener: UnixListener,
    limits: &Limits,
    workers: &WorkerPool,
    stop: CancellationToken,
    serve: S,
) where
    S: Fn(UnixStream, CancellationToken) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut pause = MIN_ACCEPT_BACKOFF;
    let mut last_failure: Option<Instant> = None;
    let mut at_capacity = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // This frees the task of each connection that has ended.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = MIN_ACCEPT_BACKOFF;
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    limits.metrics.refused.inc();
                    if !std::mem::replace(&mut at_capacity, true) {
                        throttled_log!(
                            Warn,
                            "{name}: {} connections are open, further ones are closed",
                            limits.connections
                        );
                    }
                    continue;
                };
                at_capacity = false;
                // Each connection clones a token of its own for its calls: a clone locks the token.
                let (serve, stop, socket) = (serve.clone(), stop.child_token(), name.to_owned());
                let peer_pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                workers.spawn(&mut connections, peer_pid, async move {
                    fair::next_round().await;
                    // The runtime that creates a stream receives its readiness events, so the
                    // worker creates it anew.
                    match stream.into_std().and_then(UnixStream::from_std) {
                        Ok(stream) => serve(stream, stop).await,
                        Err(e) => {
                            throttled_log!(Error, "{socket}: a connection cannot be served: {e}")
                        }
                    }
                    drop(permit);
                });
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                // A handle that is freed in between lets one connection in: still the same shortage.
                if last_failure.replace(Instant::now()).is_none_or(|at| at.elapsed() > SHORTAGE_END)
                {
                    log::error!("{name}: cannot accept a connection: {e}; trying again");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(MAX_ACCEPT_BACKOFF);
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
        let stop = CancellationToken::new();
        let end = stop.clone();
        let (served, mut where_served) = tokio::sync::mpsc::unbounded_channel();
        let serve = move |_, stop: CancellationToken| {
            served.send(std::thread::current().id()).unwrap();
            async move { stop.cancelled().await }
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
            end.cancel();
            on.dedup();
            on.len()
        };
        let (_, on) = tokio::join!(run("s", listener, &limits, &threads, stop, serve), clients);
        assert_eq!(on, 1, "they come from one process");
    }
}

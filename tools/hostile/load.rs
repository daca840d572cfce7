//! Load by clients that speak the protocols well: how many connections, how many calls at a time on each,
//! and which.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{FutureExt, StreamExt};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

use super::client::{Client, Protocol, Raw, channel};
use super::requests::Request;

/// What attackers print once all is there that they ask for.
pub const READY: &str = "ready";

/// The sockets of a daemon.
#[derive(Debug, Clone)]
pub struct Sockets {
    pub grpc: PathBuf,
    pub ttrpc: PathBuf,
    pub metrics: PathBuf,
}

/// How clients send calls.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub protocol: Protocol,
    pub connections: usize,
    /// Calls at a time on each connection.
    pub in_flight: usize,
    /// Whether replies are read; over ttrpc they always are.
    pub reads: bool,
    /// The call of a number. Numbers are given out once, to all connections together.
    pub request: fn(u64, &Parameters) -> Request,
    pub parameters: Parameters,
}

/// What a request may depend on beside its number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parameters {
    pub count: usize,
    pub length: usize,
    pub pattern: usize,
}

/// What clients do: first some calls, in any order, then their loads side by side.
pub struct Plan {
    pub before: Vec<Request>,
    pub loads: Vec<Load>,
}

/// How many calls were answered, and how many of them with an error.
#[derive(Debug, Default)]
pub struct Answered {
    pub all: AtomicU64,
    pub errors: AtomicU64,
}

/// Carries out a plan, until it is dropped.
pub async fn run(sockets: &Sockets, plan: Plan, answered: Arc<Answered>) {
    let first = Client::Grpc(channel(&sockets.grpc).await.unwrap());
    let before = futures_util::stream::iter(plan.before);
    before.for_each_concurrent(64, |request| call(&first, request).map(drop)).await;
    // The siege measures from here on.
    println!("{READY}");
    let mut tasks = tokio::task::JoinSet::new();
    for load in plan.loads {
        let numbers = Arc::new(AtomicU64::new(0));
        for _ in 0..load.connections {
            let (sockets, numbers) = (sockets.clone(), Arc::clone(&numbers));
            tasks.spawn(connection(sockets, load, numbers, Arc::clone(&answered)));
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// One connection after the other, each until it fails.
async fn connection(
    sockets: Sockets,
    load: Load,
    numbers: Arc<AtomicU64>,
    answered: Arc<Answered>,
) {
    loop {
        let client = match load.protocol {
            Protocol::Ttrpc => Client::ttrpc(&sockets.ttrpc).await,
            Protocol::Grpc if load.reads => match channel(&sockets.grpc).await {
                Ok(channel) => Client::Grpc(channel),
                Err(_) => continue,
            },
            Protocol::Grpc => match unread(sockets.grpc.clone()).await {
                Ok(channel) => Client::Grpc(channel),
                Err(_) => continue,
            },
        };
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..load.in_flight {
            let (client, numbers) = (client.clone(), Arc::clone(&numbers));
            let answered = Arc::clone(&answered);
            calls.spawn(async move {
                loop {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let outcome = call(&client, (load.request)(number, &load.parameters)).await;
                    answered.all.fetch_add(1, Ordering::Relaxed);
                    match outcome {
                        Ok(()) => {}
                        // The connection has ended.
                        Err(-1) => break,
                        Err(_) => drop(answered.errors.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        while calls.join_next().await.is_some() {}
    }
}

/// One call; a stream until it ends. The code of an error; -1 when the connection failed.
async fn call(client: &Client, request: Request) -> Result<(), i32> {
    let Request { service, method, namespace, message } = request;
    match client {
        Client::Grpc(channel) if method == "Subscribe" => {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.map_err(|_| -1)?;
            let path = PathAndQuery::try_from(format!("/{service}/{method}")).unwrap();
            let stream = grpc.server_streaming(tonic::Request::new(message), path, Raw).await;
            let mut events = stream.map_err(|status| status.code() as i32)?.into_inner();
            loop {
                match events.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status.code() as i32),
                }
            }
        }
        Client::Grpc(channel) => {
            super::client::grpc(channel, service, method, Some(&namespace), message)
                .await
                .map(drop)
                .map_err(|failed| failed.code)
        }
        Client::Ttrpc(_) => {
            let done = client.raw(method, Some(&namespace), message).await;
            done.map(drop).map_err(|failed| failed.code)
        }
    }
}

/// A connection whose replies do not come, as there is no room for them.
async fn unread(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(1)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}

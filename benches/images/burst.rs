//! A burst of load: many clients, each with a connection of its own and one call at a time,
//! and what the servers took for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Client, Prepared, Protocol};
use super::server::Server;
use super::{Result, store};

/// One server by one protocol.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub server: Arc<Server>,
    /// How it is spoken to.
    pub protocol: Protocol,
}

impl Target {
    /// A connection.
    pub async fn connect(&self) -> Result<Client> {
        Client::connect(self.protocol, self.server.socket(self.protocol)).await
    }
}

/// How long a burst goes on.
#[derive(Clone, Copy)]
pub enum Until {
    /// Every request was sent once.
    Once,
    /// The time is over, and each client has made a call; requests come again in turn.
    Time(Duration),
}

/// What a burst was.
#[derive(Default)]
pub struct Burst {
    /// Calls answered with OK; there were no others.
    pub calls: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// What the server's threads took together.
    pub cpu: Duration,
    /// Of each call.
    pub latencies: Vec<Duration>,
}

impl Burst {
    /// Calls a second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that half of the calls have at most, in seconds.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// A quantile of the latency, in seconds.
    pub fn quantile(&self, part: f64) -> f64 {
        quantile(self.latencies.iter().map(Duration::as_secs_f64).collect(), part)
    }
}

/// A quantile of the values.
pub fn quantile(mut all: Vec<f64>, part: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let at = (all.len() as f64 * part) as usize;
    all.get(at.min(all.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The median.
pub fn median(all: Vec<f64>) -> f64 {
    quantile(all, 0.5)
}

/// Has `clients` send `requests`, all connected before the clock runs. Any call that fails fails
/// the burst, with how many did.
pub async fn run(
    target: &Target,
    clients: usize,
    requests: &Arc<[Prepared]>,
    until: Until,
) -> Result<Burst> {
    let get = target.protocol.images("Get", &store::get(0))?;
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut client = target.connect().await?;
        // The first call of a connection pays for its settings. NotFound, from a store that is
        // still empty, does as well, and what else is wrong shows in the next call.
        let _ = client.call(&get).await;
        connected.push(client);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let cpu = target.server.cpu()?;
    let start = Instant::now();
    let mut running = JoinSet::new();
    for client in connected {
        running.spawn(send(client, Arc::clone(requests), Arc::clone(&next), start, until));
    }
    let (mut burst, mut failed, mut first) = (Burst::default(), 0, None);
    // Connections are closed when the clock has stopped.
    let mut clients = Vec::new();
    while let Some(ended) = running.join_next().await {
        let ended = ended?;
        burst.latencies.extend(ended.latencies);
        failed += ended.failed;
        first = first.or(ended.first);
        clients.push(ended.client);
    }
    burst.elapsed = start.elapsed();
    burst.cpu = target.server.cpu()?.saturating_sub(cpu);
    burst.calls = burst.latencies.len();
    match first {
        None => Ok(burst),
        Some(e) => {
            Err(format!("{failed} of {} calls failed, the first: {e}", failed + burst.calls).into())
        }
    }
}

struct Ended {
    client: Client,
    latencies: Vec<Duration>,
    failed: usize,
    first: Option<Box<dyn std::error::Error + Send + Sync>>,
}

async fn send(
    mut client: Client,
    requests: Arc<[Prepared]>,
    next: Arc<AtomicUsize>,
    start: Instant,
    until: Until,
) -> Ended {
    let mut latencies = Vec::with_capacity(1024);
    let (mut failed, mut first) = (0, None);
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let request = match until {
            Until::Once => requests.get(at),
            Until::Time(time) if start.elapsed() >= time && !latencies.is_empty() => None,
            Until::Time(_) => requests.get(at % requests.len().max(1)),
        };
        let Some(request) = request else { break };
        let since = Instant::now();
        match client.call(request).await {
            Ok(_) => latencies.push(since.elapsed()),
            Err(e) => {
                failed += 1;
                first.get_or_insert(e);
                // Not for ever against a server that refuses everything.
                if failed == 100 {
                    break;
                }
            }
        }
    }
    Ended { client, latencies, failed, first }
}

/// Waits until none of the servers works: what one does after its burst (a collector, a sync) is
/// not to be paid by the other's. Not for long: some never rest.
pub async fn settle(servers: &[Arc<Server>]) -> Result<()> {
    let taken = || servers.iter().map(|s| s.cpu()).sum::<Result<Duration>>();
    for _ in 0..50 {
        let before = taken()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if taken()? == before {
            break;
        }
    }
    Ok(())
}

//! The catalogue: from a commit to its watchers, catching up, history, pages, counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lmdb_images::api::catalog::history_request::Of;
use lmdb_images::api::catalog::watch_response::Is;
use lmdb_images::api::catalog::{
    CountRequest, HeadRequest, HeadResponse, HistoryRequest, ListRequest, ListResponse,
    WatchRequest, WatchResponse,
};
use lmdb_images::containerd::client::GrpcClient;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::burst::{Target, median};
use super::client::{Client, Prepared, Protocol};
use super::report::{Progress, Report, Unit, markdown, thousands};
use super::server::{Kind, Server};
use super::targets::fill;
use super::{Arguments, Result, idle_watchers, log_cost, machine, store};

const SERVICE: &str = "lmdbimages.v1.Catalog";

/// Images that Count counts.
const COUNTED: u32 = 100_000;

/// Changes whose way to the watchers is measured, and how many a second.
const CHANGES: u32 = 200;
const CHANGES_PER_SECOND: u32 = 20;

/// Streams of one connection.
pub const STREAMS: usize = 100;

/// The number of calls that a median is of.
const CALLS: usize = 100;

/// One figure: the required value, and the reached one.
pub struct Figure {
    pub what: String,
    pub asked: String,
    pub reached: String,
    pub is_reached: bool,
}

impl Figure {
    fn time(what: &str, asked: Duration, reached: Duration) -> Self {
        let show = |time: Duration| Unit::Time.show(time.as_secs_f64());
        let (is_reached, reached) = (reached <= asked, show(reached));
        Self { what: what.into(), asked: format!("≤ {}", show(asked)), reached, is_reached }
    }
}

/// Measures all of it; gives back the figures that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let dir = machine::folder()?;
    let machine = format!("{}; {}", machine::describe(dir.path()), machine::today());
    let server = Arc::new(Server::start(&Kind::Ours, dir.path()).await?.0);
    let target = Target { server, protocol: Protocol::Grpc };
    let progress = Progress::new(7)?;
    let mut figures = Vec::new();
    progress.say("filling lmdb-images");
    fill(&target, 0, COUNTED, 10).await?;
    progress.step();
    figures.extend(past(&target).await?);
    progress.step();
    figures.extend(watchers(&target, 1, 0).await?);
    figures.extend(watchers(&target, 1000, 1).await?);
    progress.step();
    figures.push(idle_watchers::run(&target, arguments.turns).await?);
    progress.step();
    let most = arguments.most.max(COUNTED);
    fill(&target, COUNTED, most, 10).await?;
    progress.step();
    figures.push(pages(&target, most).await?);
    progress.step();
    figures.extend(log_cost::run(dir.path(), arguments.turns).await?);
    progress.done();

    let mark = |figure: &Figure| if figure.is_reached { "yes" } else { "no" };
    let rows: Vec<_> = figures
        .iter()
        .map(|f| vec![f.what.clone(), f.asked.clone(), f.reached.clone(), mark(f).into()])
        .collect();
    let head = ["", "asked", "reached", "is reached"].map(Into::into);
    let text = format!("gRPC; {machine}.\n\n{}", markdown(&head, &rows));
    let json: Vec<_> = figures
        .iter()
        .map(|f| json!({ "what": f.what, "asked": f.asked, "reached": f.reached }))
        .collect();
    report.table("catalogue", &text, &json!({ "machine": machine, "rows": json }))?;
    let missed = figures.iter().filter(|figure| !figure.is_reached);
    Ok(missed.map(|f| format!("{}: {}, wanted {}", f.what, f.reached, f.asked)).collect())
}

pub fn call(method: &str, message: &impl protobuf::Message) -> Result<Prepared> {
    Protocol::Grpc.prepare(SERVICE, method, message)
}

async fn client(target: &Target) -> Result<Client> {
    Client::connect(Protocol::Grpc, target.server.socket(Protocol::Grpc)).await
}

/// The median time of a call.
async fn time(client: &mut Client, requests: &[Prepared]) -> Result<Duration> {
    let mut times = Vec::new();
    for request in requests.iter().cycle().take(CALLS) {
        let begun = Instant::now();
        client.call(request).await?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(times)))
}

/// Count, history, and catching up over a full log.
async fn past(target: &Target) -> Result<Vec<Figure>> {
    let mut client = client(target).await?;
    let count = time(&mut client, &[call("Count", &CountRequest::new())?]).await?;
    let subject = Some(Of::Name(store::name(7)));
    let history = call("History", &HistoryRequest { of: subject, ..HistoryRequest::default() })?;
    let history = time(&mut client, &[history]).await?;
    let head: HeadResponse = client.ask(&call("Head", &HeadRequest::new())?).await?;
    let watch = WatchRequest { epoch: head.epoch, from: head.first, ..WatchRequest::default() };
    let wanted = head.last + 1 - head.first;
    let begun = Instant::now();
    let grpc = GrpcClient::lazy(target.server.socket(Protocol::Grpc));
    let mut stream = grpc.stream::<_, WatchResponse>(WATCH, watch).await?;
    let mut seen = 0;
    while seen < wanted {
        let message = stream.message().await?.ok_or("the watch ended")?;
        if let Some(Is::Changes(changes)) = message.is {
            seen += changes.changes.len() as u64;
        }
    }
    let rate = wanted as f64 / begun.elapsed().as_secs_f64();
    let asked = 200_000.0;
    Ok(vec![
        Figure::time("count of 100,000", Duration::from_millis(10), count),
        Figure::time("history over the whole log", Duration::from_millis(20), history),
        Figure {
            what: "a watch catches up, with its client's decoding".into(),
            asked: format!("≥ {}/s", thousands(asked)),
            reached: format!("{}/s of {}", thousands(rate), thousands(wanted as f64)),
            is_reached: rate >= asked,
        },
    ])
}

pub const WATCH: &str = "/lmdbimages.v1.Catalog/Watch";

/// From the answer to a change until the watchers have it, and the memory of the watchers.
async fn watchers(target: &Target, count: usize, run: u32) -> Result<Vec<Figure>> {
    let before = target.server.anonymous()?;
    let mut client = client(target).await?;
    let head: HeadResponse = client.ask(&call("Head", &HeadRequest::new())?).await?;
    let first = head.last + 1;
    let mut watching = JoinSet::new();
    let mut grpc = GrpcClient::lazy(target.server.socket(Protocol::Grpc));
    for number in 0..count {
        if number % STREAMS == 0 {
            grpc = GrpcClient::lazy(target.server.socket(Protocol::Grpc));
        }
        let watch =
            WatchRequest { epoch: head.epoch.clone(), from: first, ..WatchRequest::default() };
        let mut stream = grpc.stream::<_, WatchResponse>(WATCH, watch).await?;
        watching.spawn(async move {
            let mut arrived = Vec::with_capacity(CHANGES as usize);
            while arrived.len() < CHANGES as usize {
                let Ok(Some(message)) = stream.message().await else { break };
                if let Some(Is::Changes(changes)) = message.is {
                    arrived.extend(changes.changes.iter().map(|_| Instant::now()));
                }
            }
            arrived
        });
    }
    let mut answered = Vec::new();
    let mut due = tokio::time::Instant::now();
    for number in 0..CHANGES {
        due += Duration::from_secs(1) / CHANGES_PER_SECOND;
        sleep_until(due).await;
        let request = Protocol::Grpc.images("Create", &store::create_passing(run, number))?;
        client.call(&request).await?;
        answered.push(Instant::now());
    }
    let memory = target.server.anonymous()?.saturating_sub(before);
    let mut times = Vec::new();
    while let Some(arrived) = watching.join_next().await {
        let arrived = arrived?;
        let ways = answered.iter().zip(&arrived);
        times.extend(ways.map(|(answered, arrived)| arrived.saturating_duration_since(*answered)));
    }
    times.sort_unstable();
    let quantile = |q: f64| {
        let at = ((times.len() as f64 * q) as usize).min(times.len().saturating_sub(1));
        times.get(at).copied().unwrap_or_default()
    };
    let (half, most) = (quantile(0.5), quantile(0.99));
    let ms = Duration::from_millis;
    Ok(if count == 1 {
        vec![
            Figure::time("from a commit to one watcher, p50", ms(1), half),
            Figure::time("from a commit to one watcher, p99", ms(5), most),
        ]
    } else {
        let asked = 40_u64 << 20;
        vec![
            Figure::time("to 1,000 watchers at 20 changes/s, p99", ms(25), most),
            Figure {
                what: "memory of 1,000 watchers".into(),
                asked: format!("≤ {}", Unit::Bytes.show(asked as f64)),
                reached: Unit::Bytes.show(memory as f64),
                is_reached: memory <= asked,
            },
        ]
    })
}

/// A page of 100 anywhere.
async fn pages(target: &Target, images: u32) -> Result<Figure> {
    let mut client = client(target).await?;
    let (mut token, mut tokens) = (String::new(), Vec::new());
    loop {
        let request = ListRequest { page_token: token, page_size: 1000, ..Default::default() };
        let page: ListResponse = client.ask(&call("List", &request)?).await?;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        tokens.push(token.clone());
    }
    let every = (tokens.len() / CALLS).max(1);
    let requests = tokens.into_iter().step_by(every).map(|page_token| {
        call("List", &ListRequest { page_token, page_size: 100, ..Default::default() })
    });
    let requests = requests.collect::<Result<Vec<_>>>()?;
    let found = time(&mut client, &requests).await?;
    let what = if images >= 1_000_000 {
        "a page of 100 anywhere in 1,000,000"
    } else {
        "a page of 100 anywhere in a smaller store"
    };
    Ok(Figure::time(what, Duration::from_micros(200), found))
}

//! Gets beside large Lists, and the memory of Lists.
//!
//! The Lists are called on a thread of their own, so that the benchmark measures delays of the server and not of the
//! client. On two processors, any List takes a processor from the Gets. So the same Gets are also measured beside
//! threads that only spin.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use super::burst::{self, Target, Until, median};
use super::client::{Client, Protocol};
use super::report::{Progress, Report, Unit, markdown, times};
use super::server::{Kind, Server};
use super::targets::{fill, prepare};
use super::{Arguments, Result, machine, store};

/// Images in the store. A List by team returns a tenth of them.
const IMAGES: u32 = 100_000;
const TEAMS: u32 = 10;

/// How long Gets are measured in a turn.
const BURST: Duration = Duration::from_millis(700);

/// The most that Lists may slow down Gets, as a factor of the 99th percentile.
const HELD_UP: f64 = 3.0;

/// Images whose List is near the most that gRPC carries.
const LARGE: u32 = 50_000;

/// What goes on beside the Gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Spinning(usize),
    Lists(usize),
}

impl Beside {
    const ALL: [Self; 5] =
        [Self::Nothing, Self::Spinning(1), Self::Lists(1), Self::Spinning(2), Self::Lists(2)];

    fn name(self) -> String {
        match self {
            Self::Nothing => "nothing".into(),
            Self::Spinning(n) => format!("spinning threads of the client's: {n}"),
            Self::Lists(n) => format!("clients that List 10,000 of 100,000 images: {n}"),
        }
    }

    fn start(self, target: &Target) -> Noise {
        let noise = Noise::default();
        match self {
            Self::Nothing => noise,
            Self::Spinning(n) => noise.with(n, |stop, _| {
                while !stop.load(Ordering::Relaxed) {
                    black_box(());
                }
                Ok(())
            }),
            Self::Lists(n) => {
                let target = target.clone();
                let filter = store::by_team(0);
                noise.with(n, move |stop, done| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(lists(&target, Some(filter.clone()), stop, done))
                })
            }
        }
    }
}

/// Lists again and again.
async fn lists(
    target: &Target,
    filter: Option<String>,
    stop: &AtomicBool,
    done: &AtomicUsize,
) -> Result<()> {
    let mut client = target.connect().await?;
    let request = target.protocol.images("List", &store::list(filter))?;
    while !stop.load(Ordering::Relaxed) {
        client.call(&request).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Threads that work until stopped.
#[derive(Default)]
struct Noise {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Noise {
    fn with<F>(mut self, threads: usize, work: F) -> Self
    where
        F: Fn(&AtomicBool, &AtomicUsize) -> Result<()> + Clone + Send + 'static,
    {
        for _ in 0..threads {
            let (stop, done, work) = (Arc::clone(&self.stop), Arc::clone(&self.done), work.clone());
            self.threads.push(thread::spawn(move || work(&stop, &done)));
        }
        self
    }

    /// Ends them; how much they did.
    fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// Measures both; gives back the goals that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let dir = machine::folder()?;
    let machine = format!("{}; {}", machine::describe(dir.path()), machine::today());
    let missed = gets(arguments, report, &dir.path().join("g"), &machine).await?;
    memory(report, &dir.path().join("m"), &machine).await?;
    Ok(missed)
}

async fn filled(dir: &std::path::Path, images: u32) -> Result<Target> {
    let server = Arc::new(Server::start(&Kind::Ours, dir).await?.0);
    let target = Target { server, protocol: Protocol::Grpc };
    fill(&target, 0, images, TEAMS).await?;
    Ok(target)
}

async fn gets(
    arguments: &Arguments,
    report: &Report,
    dir: &std::path::Path,
    machine: &str,
) -> Result<Vec<String>> {
    let progress = Progress::new(u64::from(arguments.turns))?;
    progress.say(&format!("filling lmdb-images with {IMAGES} images"));
    let target = filled(dir, IMAGES).await?;
    let requests =
        prepare(Protocol::Grpc, "Get", store::mixed(0, IMAGES).take(4096).map(store::get))?;
    progress.say("Gets beside Lists");
    let mut found: [[Vec<f64>; 3]; Beside::ALL.len()] = Default::default();
    for turn in 0..=arguments.turns {
        for (beside, found) in Beside::ALL.into_iter().zip(&mut found) {
            let noise = beside.start(&target);
            let burst = burst::run(&target, 1, &requests, Until::Time(BURST)).await;
            let lists = noise.end()?;
            let burst = burst?;
            if turn > 0 {
                let rate = lists as f64 / burst.elapsed.as_secs_f64();
                let [half, most, side] = found;
                half.push(burst.median());
                most.push(burst.quantile(0.99));
                side.push(rate);
            }
        }
        progress.step();
    }
    progress.done();

    let alone = found.first().map_or(f64::NAN, |[_, most, _]| median(most.clone()));
    let (mut rows, mut json, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    for (beside, [half, most, side]) in Beside::ALL.into_iter().zip(found) {
        let (half, most, side) = (median(half), median(most), median(side));
        let lists =
            if matches!(beside, Beside::Lists(_)) { format!("{side:.0}/s") } else { "–".into() };
        rows.push(vec![
            beside.name(),
            Unit::Time.show(half),
            Unit::Time.show(most),
            times(most / alone),
            lists,
        ]);
        json.push(json!({ "beside": beside.name(), "median": half, "p99": most, "lists": side }));
        if beside == Beside::Lists(1) && most / alone > HELD_UP {
            missed.push(format!(
                "Get beside a List: p99 {}, wanted {}",
                times(most / alone),
                times(HELD_UP)
            ));
        }
    }
    let head = ["Get, 1 client, beside", "median", "p99", "p99 ÷ alone", "Lists"].map(Into::into);
    let text = format!(
        "100,000 images, gRPC; {machine}. Medians of {} turns.\n\n{}",
        arguments.turns,
        markdown(&head, &rows)
    );
    report.table("beside", &text, &json!({ "machine": machine, "rows": json }))?;
    Ok(missed)
}

/// The peak of anonymous memory while this number of clients List everything at once.
async fn memory(report: &Report, dir: &std::path::Path, machine: &str) -> Result<()> {
    let target = filled(dir, LARGE).await?;
    let request = target.protocol.images("List", &store::list(None))?;
    let size = Client::connect(Protocol::Grpc, target.server.socket(Protocol::Grpc))
        .await?
        .call(&request)
        .await?;
    let (mut rows, mut json) = (Vec::new(), Vec::new());
    for clients in [1, 4, 16, 64] {
        let before = target.server.anonymous()?;
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(before)));
        let sampler = {
            let (stop, peak, server) =
                (Arc::clone(&stop), Arc::clone(&peak), Arc::clone(&target.server));
            thread::spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(server.anonymous()?, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            })
        };
        let requests: Arc<[_]> = vec![request.clone(); clients * 3].into();
        let burst = burst::run(&target, clients, &requests, Until::Once).await;
        stop.store(true, Ordering::Relaxed);
        sampler.join().map_err(|_| "the sampler panicked")??;
        let rate = burst?.rate();
        let peak = peak.load(Ordering::Relaxed) as f64;
        rows.push(vec![
            clients.to_string(),
            Unit::Bytes.show(before as f64),
            Unit::Bytes.show(peak),
            format!("{rate:.1}/s"),
        ]);
        json.push(json!({ "clients": clients, "before": before, "peak": peak, "lists": rate }));
    }
    let head = ["clients that List at once", "anonymous memory before", "at its peak", "Lists"]
        .map(Into::into);
    let text = format!(
        "Each answer has {}; all large answers share 64 MiB; gRPC; {machine}.\n\n{}",
        Unit::Bytes.show(size as f64),
        markdown(&head, &rows)
    );
    report.table("list-memory", &text, &json!({ "machine": machine, "answer": size, "rows": json }))
}

//! Reads the database of a running containerd with `bbolt_read::LiveFile` while clients change images
//! and namespaces all the time, and holds each read to what may be true. `scripts/soak/bbolt-live`
//! starts it.
//!
//! ```text
//! live_check SOCKET META_DB SECONDS [unchecked]
//! ```
//!
//! Each name has one client, which makes its operations in a fixed cycle and counts them: the number
//! of the operation tells whether the record exists, and stands in the record at three places. A
//! read must show the last operation that was answered before it began, or a later one that was
//! begun before it ended. With `unchecked` the reader keeps the meta pages that it read first, so its
//! final check compares them with themselves: then reads must be seen to go wrong.
//!
//! Prints one line of figures. Exits with 1 when a read was wrong or old, and with 2 when it could not
//! be tried.

mod changes;
mod expectation;
mod reading;

use std::cell::RefCell;
use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bbolt_read::{LiveError, LiveFile, LiveReader, ReadAt};
use lmdb_images::containerd::client::GrpcClient;

use self::changes::change;
use self::expectation::{Counts, Expectation, Verdict};
use self::reading::{Source, record, walk};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const CLIENTS: usize = 4;
const NAMES_PER_CLIENT: usize = 60;
const CHANGING_NAMESPACES: usize = 8;
const READER_THREADS: usize = 2;

/// Reads one record, or some images from it on, and counts the verdict.
fn check<S: ReadAt>(
    reader: &LiveReader<S>,
    expected: &Expectation,
    is_walk: bool,
    counts: &Counts,
) {
    let answered = expected.last_answered.load(SeqCst);
    let read = reader.read(|snapshot| {
        if is_walk { walk(snapshot, expected).map(|_| None) } else { record(snapshot, expected) }
    });
    counts.add(if is_walk { &counts.walks } else { &counts.lookups });
    match read {
        Ok(read) => {
            if read.tries > 1 {
                counts.add(&counts.retried);
            }
            if !is_walk {
                let verdict = expected.allows(read.value, answered);
                counts.verdict(verdict, || {
                    format!(
                        "{:?} after {answered} of {expected:?}, transaction {}",
                        read.value, read.txid
                    )
                });
            }
        }
        Err(LiveError::Busy { .. }) => counts.add(&counts.busy),
        Err(e) => counts.verdict(Verdict::Wrong, || format!("{expected:?}: {e}")),
    }
}

/// Looks up records at random until the end.
fn lookup(
    path: &Path,
    unchecked: bool,
    all: &[Arc<Expectation>],
    counts: &Counts,
    end: &AtomicBool,
) {
    let Ok(file) = File::open(path) else { return };
    let source = Source { file, frozen: unchecked.then(RefCell::default) };
    let Ok(reader) = LiveReader::new(source) else { return };
    let mut random = fastrand::Rng::new();
    while !end.load(SeqCst) {
        let Some(expected) = random.choice(all) else { return };
        reader.source().forget();
        check(&reader, expected, random.u8(..16) == 0, counts);
    }
}

/// Changes its records in turn until the end, and reads each one right after the answer.
async fn client(
    containerd: GrpcClient,
    file: Arc<LiveFile>,
    records: Vec<Arc<Expectation>>,
    counts: Arc<Counts>,
    end: Arc<AtomicBool>,
) -> Result<()> {
    for expected in records.iter().cycle() {
        if end.load(SeqCst) {
            break;
        }
        let number = expected.last_begun.fetch_add(1, SeqCst) + 1;
        change(&containerd, expected, number).await?;
        expected.last_answered.store(number, SeqCst);
        check(&file, expected, false, &counts);
        counts.add(&counts.after_answer);
        counts.add(&counts.changes);
    }
    Ok(())
}

async fn run(socket: &Path, database: &Path, time: Duration, unchecked: bool) -> Result<bool> {
    let image = |client: usize, index: usize| {
        let namespace = if index.is_multiple_of(2) { "one" } else { "two" };
        Arc::new(Expectation::new(
            namespace,
            Some(format!("registry.test/{index:03}/{client}:latest")),
        ))
    };
    let mut shares: Vec<Vec<Arc<Expectation>>> = (0..CLIENTS)
        .map(|client| (0..NAMES_PER_CLIENT).map(|index| image(client, index)).collect())
        .collect();
    shares.push(
        (0..CHANGING_NAMESPACES)
            .map(|index| Arc::new(Expectation::new(&format!("changing{index}"), None)))
            .collect(),
    );
    let all: Vec<Arc<Expectation>> = shares.iter().flatten().cloned().collect();
    let (counts, end) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let file = Arc::new(LiveFile::open(database)?);
    let began = Instant::now();
    let readers: Vec<_> = (0..READER_THREADS)
        .map(|_| {
            let (all, counts, end) = (all.clone(), counts.clone(), end.clone());
            let database = database.to_owned();
            std::thread::spawn(move || lookup(&database, unchecked, &all, &counts, &end))
        })
        .collect();
    let mut clients = tokio::task::JoinSet::new();
    for records in shares {
        let containerd = GrpcClient::connect(socket).await?;
        clients.spawn(client(containerd, file.clone(), records, counts.clone(), end.clone()));
    }
    // A client ends before only when it fails.
    let mut failed = match tokio::time::timeout(time, clients.join_next()).await {
        Ok(Some(joined)) => joined?.err(),
        _ => None,
    };
    end.store(true, SeqCst);
    while let Some(joined) = clients.join_next().await {
        failed = joined?.err().or(failed);
    }
    for reader in readers {
        reader.join().map_err(|_| "a reading thread panicked")?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let figure = |which: &AtomicU64| which.load(SeqCst);
    let (wrong, old) = (figure(&counts.wrong), figure(&counts.old));
    println!(
        "{:.0} s, {} changes; {} lookups ({} right after an answer), {} walks, {} retried, {} busy, \
         {wrong} wrong, {old} old",
        began.elapsed().as_secs_f64(),
        figure(&counts.changes),
        figure(&counts.lookups),
        figure(&counts.after_answer),
        figure(&counts.walks),
        figure(&counts.retried),
        figure(&counts.busy),
    );
    Ok(wrong == 0 && old == 0 && file.is_current_path()?)
}

fn try_it(arguments: &[String]) -> Result<bool> {
    let (socket, database, seconds, unchecked) = match arguments {
        [socket, database, seconds] => (socket, database, seconds, false),
        [socket, database, seconds, word] if word == "unchecked" => {
            (socket, database, seconds, true)
        }
        _ => return Err("usage: live_check SOCKET META_DB SECONDS [unchecked]".into()),
    };
    let time = Duration::from_secs(seconds.parse()?);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(Path::new(socket), Path::new(database), time, unchecked))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match try_it(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("live_check: {e}");
            ExitCode::from(2)
        }
    }
}

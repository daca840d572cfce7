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

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bbolt_read::{Bucket, Damage, LiveError, LiveFile, LiveReader, ReadAt, Snapshot, Value};
use http::HeaderMap;
use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, Image, UpdateImageRequest,
    UpdateImageResponse,
};
use lmdb_images::api::namespace::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, Namespace as Record,
    UpdateNamespaceRequest, UpdateNamespaceResponse,
};
use lmdb_images::containerd::client::GrpcClient;
use lmdb_images::model::Namespace;
use protobuf::well_known_types::empty::Empty;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const CLIENTS: usize = 4;
const NAMES_PER_CLIENT: usize = 60;
const CHANGING_NAMESPACES: usize = 8;
const READER_THREADS: usize = 2;
/// Entries of a walk.
const WALK: usize = 20;
/// The number of operations on a record in a cycle; the last one deletes it.
const CYCLE: u64 = 4;
const DELETED: u64 = CYCLE - 1;

/// What is known of one record: the last operation begun, and the last one answered.
#[derive(Debug)]
struct Known {
    namespace: String,
    /// Nothing for a namespace itself.
    image: Option<String>,
    begun: AtomicU64,
    answered: AtomicU64,
}

impl Known {
    fn new(namespace: &str, image: Option<String>) -> Self {
        let (begun, answered) = (AtomicU64::new(DELETED), AtomicU64::new(DELETED));
        Self { namespace: namespace.to_owned(), image, begun, answered }
    }

    /// Whether a read may have shown this: the number in the record, or that there is none.
    fn allows(&self, shown: Option<u64>, answered_before: u64) -> Verdict {
        let begun_after = self.begun.load(SeqCst);
        match shown {
            Some(number) if number % CYCLE == DELETED || number > begun_after => Verdict::Wrong,
            Some(number) if number < answered_before => Verdict::Old,
            Some(_) => Verdict::Right,
            None if (answered_before..=begun_after).any(|n| n % CYCLE == DELETED) => Verdict::Right,
            None => Verdict::Old,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Right,
    Old,
    Wrong,
}

#[derive(Debug, Default)]
struct Counts {
    lookups: AtomicU64,
    walks: AtomicU64,
    retried: AtomicU64,
    busy: AtomicU64,
    wrong: AtomicU64,
    old: AtomicU64,
    after_answer: AtomicU64,
    changes: AtomicU64,
}

impl Counts {
    fn add(&self, which: &AtomicU64) {
        which.fetch_add(1, SeqCst);
    }

    fn verdict(&self, verdict: Verdict, what: impl FnOnce() -> String) {
        let which = match verdict {
            Verdict::Right => return,
            Verdict::Old => &self.old,
            Verdict::Wrong => &self.wrong,
        };
        if which.fetch_add(1, SeqCst) < 5 {
            eprintln!("{verdict:?}: {}", what());
        }
    }
}

/// The file; with `frozen`, its meta pages are read once and then remembered until `forget`.
struct Source {
    file: File,
    frozen: Option<RefCell<HashMap<u64, Vec<u8>>>>,
}

impl Source {
    fn forget(&self) {
        if let Some(frozen) = &self.frozen {
            frozen.borrow_mut().clear();
        }
    }
}

impl ReadAt for Source {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        // The reader reads 80 bytes of a meta page, and all of any other.
        let Some(frozen) = self.frozen.as_ref().filter(|_| buffer.len() == 80) else {
            return self.file.read_at(buffer, offset);
        };
        let mut frozen = frozen.borrow_mut();
        if let Some(remembered) = frozen.get(&offset) {
            buffer.copy_from_slice(remembered);
            return Ok(());
        }
        self.file.read_at(buffer, offset)?;
        frozen.insert(offset, buffer.to_vec());
        Ok(())
    }
}

fn bytes<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
    key: &str,
) -> Result<String, Damage> {
    match snapshot.get(bucket, key.as_bytes())? {
        Some(Value::Bytes(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        other => Err(Damage::new(0, format!("{key} is {other:?}"))),
    }
}

fn bucket<S: ReadAt>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
    key: &str,
) -> Result<Bucket, Damage> {
    match snapshot.get(bucket, key.as_bytes())? {
        Some(Value::Bucket(bucket)) => Ok(bucket),
        other => Err(Damage::new(0, format!("{key} is {other:?}"))),
    }
}

fn number(text: &str, radix: u32) -> Result<u64, Damage> {
    u64::from_str_radix(text, radix).map_err(|e| Damage::new(0, format!("{text}: {e}")))
}

/// The number that an image shows at three places, in buckets of their own.
fn image_number<S: ReadAt>(snapshot: &Snapshot<'_, S>, image: &Bucket) -> Result<u64, Damage> {
    let target = bucket(snapshot, image, "target")?;
    let label = bytes(snapshot, &bucket(snapshot, image, "labels")?, "number")?;
    let digest = bytes(snapshot, &target, "digest")?;
    let media_type = bytes(snapshot, &target, "mediatype")?;
    let shown = [
        number(&label, 10)?,
        number(digest.trim_start_matches("sha256:"), 16)?,
        number(media_type.trim_start_matches("application/x-"), 10)?,
    ];
    if shown.iter().any(|n| *n != shown[0]) {
        return Err(Damage::new(0, format!("one image of three operations: {shown:?}")));
    }
    Ok(shown[0])
}

fn record<S: ReadAt>(snapshot: &Snapshot<'_, S>, known: &Known) -> Result<Option<u64>, Damage> {
    let namespace = known.namespace.as_bytes();
    let Some(image) = &known.image else {
        let labels = snapshot.value(&[b"v1", namespace, b"labels"], b"number")?;
        return labels.map(|text| number(&String::from_utf8_lossy(&text), 10)).transpose();
    };
    let path: [&[u8]; 4] = [b"v1", namespace, b"images", image.as_bytes()];
    let found = snapshot.bucket(&path)?;
    found.map(|bucket| image_number(snapshot, &bucket)).transpose()
}

/// Some images from this one on, each whole, in order of names.
fn walk<S: ReadAt>(snapshot: &Snapshot<'_, S>, known: &Known) -> Result<usize, Damage> {
    let path: [&[u8]; 3] = [b"v1", known.namespace.as_bytes(), b"images"];
    let Some(images) = snapshot.bucket(&path)? else { return Ok(0) };
    let from = known.image.as_deref().unwrap_or_default().as_bytes();
    let (mut last, mut count) = (Vec::new(), 0);
    for entry in snapshot.entries_from(&images, from).take(WALK) {
        let entry = entry?;
        let Value::Bucket(image) = &entry.value else {
            return Err(Damage::new(entry.page, "an image is no bucket"));
        };
        image_number(snapshot, image)?;
        if entry.key.as_slice() < from || entry.key <= last {
            return Err(Damage::new(entry.page, "out of order"));
        }
        last = entry.key;
        count += 1;
    }
    Ok(count)
}

/// One read of what is known, judged.
fn check<S: ReadAt>(reader: &LiveReader<S>, known: &Known, is_walk: bool, counts: &Counts) {
    let answered = known.answered.load(SeqCst);
    let read = reader.read(|snapshot| {
        if is_walk { walk(snapshot, known).map(|_| None) } else { record(snapshot, known) }
    });
    counts.add(if is_walk { &counts.walks } else { &counts.lookups });
    match read {
        Ok(read) => {
            if read.tries > 1 {
                counts.add(&counts.retried);
            }
            if !is_walk {
                let verdict = known.allows(read.value, answered);
                counts.verdict(verdict, || {
                    format!(
                        "{:?} after {answered} of {known:?}, transaction {}",
                        read.value, read.txid
                    )
                });
            }
        }
        Err(LiveError::Busy { .. }) => counts.add(&counts.busy),
        Err(e) => counts.verdict(Verdict::Wrong, || format!("{known:?}: {e}")),
    }
}

/// Looks up records at random until the end.
fn look_up(path: &Path, unchecked: bool, all: &[Arc<Known>], counts: &Counts, end: &AtomicBool) {
    let Ok(file) = File::open(path) else { return };
    let source = Source { file, frozen: unchecked.then(RefCell::default) };
    let Ok(reader) = LiveReader::new(source) else { return };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ (&raw const reader as u64);
    while !end.load(SeqCst) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let Some(known) = all.get((random >> 8) as usize % all.len()) else { return };
        reader.source().forget();
        check(&reader, known, random.is_multiple_of(16), counts);
    }
}

async fn change(containerd: &GrpcClient, known: &Known, number: u64) -> Result<()> {
    let namespace = Namespace::parse(&known.namespace)?;
    let headers = HeaderMap::new();
    let label = [("number".to_owned(), number.to_string())].into();
    let Some(name) = known.image.clone() else {
        let name = known.namespace.clone();
        let record = Record { name: name.clone(), labels: label, ..Record::default() };
        let record = Some(record).into();
        // 1.6 publishes the event of a namespace only when the call names one itself.
        let namespace = Some(&namespace);
        match number % CYCLE {
            0 => {
                let request = CreateNamespaceRequest { namespace: record, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Create";
                containerd
                    .call::<_, CreateNamespaceResponse>(path, namespace, &headers, request)
                    .await?;
            }
            DELETED => {
                let request = DeleteNamespaceRequest { name, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Delete";
                containerd.call::<_, Empty>(path, namespace, &headers, request).await?;
            }
            _ => {
                let request = UpdateNamespaceRequest { namespace: record, ..Default::default() };
                let path = "/containerd.services.namespaces.v1.Namespaces/Update";
                containerd
                    .call::<_, UpdateNamespaceResponse>(path, namespace, &headers, request)
                    .await?;
            }
        }
        return Ok(());
    };
    let mut image = Image { name: name.clone(), labels: label, ..Image::default() };
    let target = image.target.mut_or_insert_default();
    target.media_type = format!("application/x-{number}");
    target.digest = format!("sha256:{number:064x}");
    target.size = 1;
    let (image, namespace) = (Some(image).into(), Some(&namespace));
    match number % CYCLE {
        0 => {
            let request = CreateImageRequest { image, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Create";
            containerd.call::<_, CreateImageResponse>(path, namespace, &headers, request).await?;
        }
        DELETED => {
            let request = DeleteImageRequest { name, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Delete";
            containerd.call::<_, Empty>(path, namespace, &headers, request).await?;
        }
        _ => {
            let request = UpdateImageRequest { image, ..Default::default() };
            let path = "/containerd.services.images.v1.Images/Update";
            containerd.call::<_, UpdateImageResponse>(path, namespace, &headers, request).await?;
        }
    }
    Ok(())
}

/// Changes its records in turn until the end, and reads each one right after the answer.
async fn client(
    containerd: GrpcClient,
    file: Arc<LiveFile>,
    records: Vec<Arc<Known>>,
    counts: Arc<Counts>,
    end: Arc<AtomicBool>,
) -> Result<()> {
    for known in records.iter().cycle() {
        if end.load(SeqCst) {
            break;
        }
        let number = known.begun.fetch_add(1, SeqCst) + 1;
        change(&containerd, known, number).await?;
        known.answered.store(number, SeqCst);
        check(&file, known, false, &counts);
        counts.add(&counts.after_answer);
        counts.add(&counts.changes);
    }
    Ok(())
}

async fn run(socket: &Path, database: &Path, time: Duration, unchecked: bool) -> Result<bool> {
    let image = |client: usize, index: usize| {
        let namespace = if index.is_multiple_of(2) { "one" } else { "two" };
        Arc::new(Known::new(namespace, Some(format!("registry.test/{index:03}/{client}:latest"))))
    };
    let mut shares: Vec<Vec<Arc<Known>>> = (0..CLIENTS)
        .map(|client| (0..NAMES_PER_CLIENT).map(|index| image(client, index)).collect())
        .collect();
    shares.push(
        (0..CHANGING_NAMESPACES)
            .map(|index| Arc::new(Known::new(&format!("changing{index}"), None)))
            .collect(),
    );
    let all: Vec<Arc<Known>> = shares.iter().flatten().cloned().collect();
    let (counts, end) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let file = Arc::new(LiveFile::open(database)?);
    let began = Instant::now();
    let readers: Vec<_> = (0..READER_THREADS)
        .map(|_| {
            let (all, counts, end) = (all.clone(), counts.clone(), end.clone());
            let database = database.to_owned();
            std::thread::spawn(move || look_up(&database, unchecked, &all, &counts, &end))
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

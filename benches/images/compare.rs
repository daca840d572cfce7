//! Every operation on both servers, in turn.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lmdb_images::api::images::ListImagesResponse;
use protobuf::Message;
use serde_json::{Value, json};

use super::burst::{self, Burst, Target, Until, median};
use super::client::{Prepared, Protocol};
use super::report::{Progress, Report, Unit, cell, markdown, times};
use super::server::{Kind, Server};
use super::{Arguments, Result, machine, store};

/// Clients that work at once, where it is more than one.
pub const MANY: usize = 32;

/// How long a burst of reads lasts.
const BURST: Duration = Duration::from_millis(250);

/// Creates of one client a turn, and of each of many.
const CREATES: (u32, u32) = (250, 50);

/// Images of the store whose start is measured, for each of the compared store.
const START: u32 = 10;

/// Connections whose memory is measured.
const CONNECTIONS: u64 = 256;

/// What gRPC's answers may have, and ttrpc's: longer ones are not asked for.
const MESSAGE: (u64, u64) = (16 << 20, 4 << 20);

/// An image in an answer has fewer bytes.
const IMAGE: u64 = 320;

/// A line of the table: containerd, ours by gRPC, ours by ttrpc.
struct Row {
    operation: String,
    clients: usize,
    unit: Unit,
    values: [Vec<f64>; 3],
    /// The server's processor time, and the calls it is for.
    cpu: [(f64, usize); 3],
    goal: Option<Goal>,
}

/// What the project promises itself of a line, of gRPC.
#[derive(Clone, Copy)]
enum Goal {
    /// The factor by which it must be better than containerd.
    Ratio(f64),
    /// That factor, and the most processor time as a share of containerd's.
    RatioAndCpu(f64, f64),
    /// No more than this.
    AtMost(f64),
}

impl Row {
    fn new(operation: impl Into<String>, clients: usize, unit: Unit, goal: Option<Goal>) -> Self {
        let values = Default::default();
        Self { operation: operation.into(), clients, unit, values, cpu: Default::default(), goal }
    }

    fn add(&mut self, column: usize, value: f64, burst: Option<&Burst>) {
        if let Some(values) = self.values.get_mut(column) {
            values.push(value);
        }
        if let (Some(burst), Some((seconds, calls))) = (burst, self.cpu.get_mut(column)) {
            *seconds += burst.cpu.as_secs_f64();
            *calls += burst.calls;
        }
    }

    fn medians(&self) -> [Option<f64>; 3] {
        self.values.each_ref().map(|all| (!all.is_empty()).then(|| median(all.clone())))
    }

    fn cpus(&self) -> [Option<f64>; 3] {
        self.cpu.map(|(seconds, calls)| (calls > 0).then(|| seconds / calls as f64))
    }

    fn ratio(&self) -> Option<f64> {
        let [theirs, ours, _] = self.medians();
        Some(self.unit.ratio(theirs?, ours?))
    }

    fn missed(&self) -> Option<String> {
        let [_, ours, _] = self.medians();
        let [their_cpu, our_cpu, _] = self.cpus();
        let of = format!("{}, clients {}", self.operation, self.clients);
        let less = |least: f64| {
            let ratio = self.ratio()?;
            (ratio < least).then(|| format!("{of}: {}, wanted {}", times(ratio), times(least)))
        };
        match self.goal? {
            Goal::Ratio(least) => less(least),
            Goal::RatioAndCpu(least, part) => less(least).or_else(|| {
                let found = our_cpu? / their_cpu?;
                (found > part)
                    .then(|| format!("{of}: {found:.2} of the processor time, wanted {part:.2}"))
            }),
            Goal::AtMost(most) => {
                let ours = ours?;
                (ours > most).then(|| {
                    format!("{of}: {}, wanted {}", self.unit.show(ours), self.unit.show(most))
                })
            }
        }
    }

    fn cells(&self) -> Vec<String> {
        let clients = if self.clients == 0 { String::new() } else { self.clients.to_string() };
        let mut cells = vec![self.operation.clone(), clients];
        cells.extend(self.medians().map(|value| cell(value, |v| self.unit.show(v))));
        cells.push(cell(self.ratio(), times));
        cells.extend(self.cpus().map(|value| cell(value, |v| Unit::Time.show(v))));
        cells
    }

    fn json(&self) -> Value {
        let [containerd, grpc, ttrpc] = self.medians();
        let cpu = self.cpus();
        let unit = match self.unit {
            Unit::Rate => "calls/s",
            Unit::Time => "s",
            Unit::Bytes => "bytes",
        };
        json!({
            "operation": self.operation, "clients": self.clients, "unit": unit,
            "containerd": containerd, "grpc": grpc, "ttrpc": ttrpc, "ratio": self.ratio(),
            "cpu_seconds_a_call": cpu, "turns": self.values,
        })
    }
}

/// Both servers, filled.
pub struct Both {
    /// containerd, ours by gRPC, ours by ttrpc.
    pub targets: [Target; 3],
    servers: Vec<Arc<Server>>,
}

impl Both {
    /// Starts both with their data in one folder, so on one disk.
    pub async fn start(containerd: &Kind, dir: &Path) -> Result<Self> {
        let theirs = Arc::new(Server::start(containerd, &dir.join("c")).await?.0);
        let ours = Arc::new(Server::start(&Kind::Ours, &dir.join("o")).await?.0);
        let target =
            |server: &Arc<Server>, protocol| Target { server: Arc::clone(server), protocol };
        let targets = [
            target(&theirs, Protocol::Grpc),
            target(&ours, Protocol::Grpc),
            target(&ours, Protocol::Ttrpc),
        ];
        Ok(Self { targets, servers: vec![theirs, ours] })
    }

    /// The targets with their columns; another goes first each turn.
    pub fn turn(&self, turn: u32) -> impl Iterator<Item = (usize, &Target)> {
        let all = self.targets.iter().enumerate();
        all.cycle().skip(turn as usize % self.targets.len()).take(self.targets.len())
    }

    /// Waits until both rest.
    pub async fn settle(&self) -> Result<()> {
        burst::settle(&self.servers).await
    }
}

/// Requests to Images, encoded for a protocol.
pub fn prepare<M: Message>(
    protocol: Protocol,
    method: &str,
    messages: impl IntoIterator<Item = M>,
) -> Result<Arc<[Prepared]>> {
    messages.into_iter().map(|message| protocol.images(method, &message)).collect()
}

/// Puts the images `first..last` into a store.
pub async fn fill(target: &Target, first: u32, last: u32, teams: u32) -> Result<()> {
    let messages = store::mixed(first, last - first).map(|n| store::create(n, teams));
    let requests = prepare(target.protocol, "Create", messages)?;
    burst::run(target, MANY * 4, &requests, Until::Once).await?;
    Ok(())
}

/// A read that is measured.
struct Read {
    row: Row,
    method: &'static str,
    /// In turn, so that no answer is always the same.
    filters: Vec<Option<String>>,
    /// Hits of each.
    hits: usize,
}

fn reads(images: u32) -> Vec<Read> {
    let spread = |count: u32| (0..count).map(move |i| i * (images / count));
    let teams = (images / 1000).max(1);
    let list = |operation: String, goal, filters: Vec<String>, hits| Read {
        row: Row::new(operation, 1, Unit::Time, goal),
        method: "List",
        filters: filters.into_iter().map(Some).collect(),
        hits,
    };
    let get = |clients, unit, goal| Read {
        row: Row::new("Get", clients, unit, Some(goal)),
        method: "Get",
        filters: Vec::new(),
        hits: 0,
    };
    let team = (0..images).filter(|n| n % teams == 0).count();
    vec![
        get(1, Unit::Time, Goal::Ratio(1.2)),
        get(MANY, Unit::Rate, Goal::RatioAndCpu(1.3, 0.5)),
        Read {
            row: Row::new("List of all", 1, Unit::Time, Some(Goal::Ratio(4.0))),
            method: "List",
            filters: vec![None],
            hits: images as usize,
        },
        list(
            "List `name==`".into(),
            Some(Goal::Ratio(100.0)),
            spread(50).map(store::by_name).collect(),
            1,
        ),
        list(
            "List `target.digest==`".into(),
            Some(Goal::Ratio(100.0)),
            spread(50).map(store::by_digest).collect(),
            1,
        ),
        list(
            format!("List `name~=^literal…`, {} hits", store::TAGS),
            Some(Goal::Ratio(100.0)),
            (0..images / store::TAGS).map(store::by_prefix).collect(),
            store::TAGS as usize,
        ),
        list(
            format!("List `labels.team==`, {team} hits"),
            Some(Goal::Ratio(5.0)),
            vec![store::by_team(0)],
            team,
        ),
        list(
            format!("List `{}`, reads all", store::READS_ALL),
            Some(Goal::Ratio(4.0)),
            vec![store::READS_ALL.into()],
            store::found_by_reading_all(images),
        ),
    ]
}

/// Measures everything; gives back the goals that were not reached.
pub async fn run(arguments: &Arguments, report: &Report) -> Result<Vec<String>> {
    let kind = Kind::containerd(&arguments.containerd)?;
    let version = kind.version()?;
    let dir = machine::folder()?;
    let both = Both::start(&kind, dir.path()).await?;
    let (images, turns) = (arguments.images, arguments.turns);
    let machine = machine::describe(dir.path());
    let teams = (images / 1000).max(1);
    let mut reads = reads(images);
    let progress = Progress::new(u64::from(turns) * (reads.len() as u64 + 1))?;

    progress.say(&format!("filling {version} and lmdb-images with {images} images"));
    for target in both.targets.iter().take(2) {
        fill(target, 0, images, teams).await?;
    }
    progress.say("looking whether both answer the same");
    for read in &reads {
        look(&both, read, images).await?;
    }

    let mut rows = writes(&both, turns, &progress).await?;
    for read in &mut reads {
        progress.say(&format!("{}, clients {}", read.row.operation, read.row.clients));
        measure(&both, read, images, turns, &progress).await?;
    }
    progress.say("memory, disk, starts");
    rows.extend(reads.into_iter().map(|read| read.row));
    rows.extend(resources(&both).await?);
    rows.push(connections(&kind, &dir.path().join("m")).await?);
    rows.push(starts(&dir.path().join("s"), images * START, turns).await?);
    progress.done();

    let named = format!("compare-{}", version.replace("containerd ", ""));
    let table = table(&version, &rows);
    let text = format!(
        "{version} and lmdb-images {}, {images} images; {machine}; {}. Medians of {turns} turns.\n\n{table}",
        env!("CARGO_PKG_VERSION"),
        machine::today(),
    );
    let json = json!({
        "containerd": version, "lmdb-images": env!("CARGO_PKG_VERSION"), "images": images,
        "turns": turns, "machine": machine, "day": machine::today(),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    report.table(&named, &text, &json)?;
    Ok(rows.iter().filter_map(Row::missed).collect())
}

fn table(version: &str, rows: &[Row]) -> String {
    let head = [
        "operation",
        "clients",
        version,
        "gRPC",
        "ttrpc",
        "gRPC is better",
        "CPU a call: containerd",
        "gRPC",
        "ttrpc",
    ];
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    markdown(&head.map(Into::into), &cells)
}

/// A column's requests for a read; none when the answer would be too long for the protocol.
fn requests(read: &Read, target: &Target, images: u32) -> Result<Option<Arc<[Prepared]>>> {
    if read.method == "Get" {
        let gets = store::mixed(0, images).take(4096).map(store::get);
        return prepare(target.protocol, "Get", gets).map(Some);
    }
    let most = if target.protocol == Protocol::Grpc { MESSAGE.0 } else { MESSAGE.1 };
    if read.hits as u64 * IMAGE > most {
        return Ok(None);
    }
    prepare(target.protocol, "List", read.filters.iter().cloned().map(store::list)).map(Some)
}

/// All targets find what is there.
async fn look(both: &Both, read: &Read, images: u32) -> Result<()> {
    if read.method != "List" {
        return Ok(());
    }
    for (_, target) in both.turn(0) {
        let Some(requests) = requests(read, target, images)? else { continue };
        let mut client = target.connect().await?;
        for request in requests.iter().take(3) {
            let found: ListImagesResponse = client.ask(request).await?;
            if found.images.len() != read.hits {
                return Err(format!(
                    "{}: {} hits instead of {} from {:?}",
                    read.row.operation,
                    found.images.len(),
                    read.hits,
                    target.server.socket(target.protocol)
                )
                .into());
            }
        }
    }
    Ok(())
}

async fn measure(
    both: &Both,
    read: &mut Read,
    images: u32,
    turns: u32,
    progress: &Progress,
) -> Result<()> {
    // The first turn is to warm up.
    for turn in 0..=turns {
        for (column, target) in both.turn(turn) {
            let Some(requests) = requests(read, target, images)? else { continue };
            both.settle().await?;
            let time = if turn == 0 { BURST / 5 } else { BURST };
            let burst = burst::run(target, read.row.clients, &requests, Until::Time(time)).await?;
            if turn > 0 {
                let value = if read.row.unit == Unit::Rate { burst.rate() } else { burst.median() };
                read.row.add(column, value, Some(&burst));
            }
        }
        if turn > 0 {
            progress.step();
        }
    }
    Ok(())
}

/// Creates, changes and deletes images beside those that stay: the store is the same after.
async fn writes(both: &Both, turns: u32, progress: &Progress) -> Result<Vec<Row>> {
    let row = |operation, clients, least| {
        Row::new(operation, clients, Unit::Rate, Some(Goal::Ratio(least)))
    };
    let mut one = row("Create", 1, 1.5);
    let mut rows = [row("Create", MANY, 6.0), row("Update", MANY, 6.0), row("Delete", MANY, 6.0)];
    progress.say("Create, Update, Delete");
    for turn in 0..=turns {
        for (column, target) in both.turn(turn) {
            let protocol = target.protocol;
            let number = turn * both.targets.len() as u32 + column as u32;
            let numbers = 0..if turn == 0 { 100 } else { CREATES.0 };
            let more =
                numbers.end..numbers.end + if turn == 0 { 100 } else { CREATES.1 * MANY as u32 };
            let all = || 0..more.end;
            let created = |n| store::create_passing(number, n);
            both.settle().await?;
            let single = prepare(protocol, "Create", numbers.clone().map(created))?;
            let single = burst::run(target, 1, &single, Until::Once).await?;
            let many = [
                prepare(protocol, "Create", more.clone().map(created))?,
                prepare(protocol, "Update", all().map(|n| store::label_passing(number, n)))?,
                prepare(protocol, "Delete", all().map(|n| store::delete_passing(number, n)))?,
            ];
            let mut bursts = Vec::new();
            for requests in &many {
                both.settle().await?;
                bursts.push(burst::run(target, MANY, requests, Until::Once).await?);
            }
            if turn > 0 {
                one.add(column, single.rate(), Some(&single));
                for (row, burst) in rows.iter_mut().zip(&bursts) {
                    row.add(column, burst.rate(), Some(burst));
                }
            }
        }
        if turn > 0 {
            progress.step();
        }
    }
    Ok([one].into_iter().chain(rows).collect())
}

/// Memory and disk after all work, without connected clients.
async fn resources(both: &Both) -> Result<[Row; 2]> {
    both.settle().await?;
    let mut memory = Row::new(
        "anonymous memory after the run",
        0,
        Unit::Bytes,
        Some(Goal::AtMost((24 << 20) as f64)),
    );
    let mut disk =
        Row::new("database on the disk after the run", 0, Unit::Bytes, Some(Goal::Ratio(4.0)));
    for (column, target) in both.targets.iter().take(2).enumerate() {
        memory.add(column, target.server.anonymous()? as f64, None);
        disk.add(column, target.server.disk()? as f64, None);
    }
    Ok([memory, disk])
}

/// Memory of connections, of servers that have freed none yet which could be used again.
async fn connections(containerd: &Kind, dir: &Path) -> Result<Row> {
    let mut row = Row::new("memory of a connection that has made a call", 0, Unit::Bytes, None);
    let columns = [
        (containerd, Protocol::Grpc),
        (&Kind::Ours, Protocol::Grpc),
        (&Kind::Ours, Protocol::Ttrpc),
    ];
    for (column, (kind, protocol)) in columns.into_iter().enumerate() {
        let server = Arc::new(Server::start(kind, &dir.join(column.to_string())).await?.0);
        let target = Target { server, protocol };
        // By one connection: what many had freed would be used again.
        let create = prepare(protocol, "Create", [store::create(0, 1)])?;
        burst::run(&target, 1, &create, Until::Once).await?;
        let get = protocol.images("Get", &store::get(0))?;
        let before = target.server.anonymous()?;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = target.connect().await?;
            client.call(&get).await?;
            open.push(client);
        }
        let taken = target.server.anonymous()?.saturating_sub(before);
        row.add(column, taken as f64 / CONNECTIONS as f64, None);
    }
    Ok(row)
}

/// From the start of the process to its first answer.
async fn starts(dir: &Path, images: u32, turns: u32) -> Result<Row> {
    let operation = format!("start to first answer, {images} images");
    let mut row = Row::new(operation, 1, Unit::Time, Some(Goal::AtMost(0.1)));
    let server = Arc::new(Server::start(&Kind::Ours, dir).await?.0);
    let target = Target { server, protocol: Protocol::Grpc };
    fill(&target, 0, images, 10).await?;
    let Some(server) = Arc::into_inner(target.server) else {
        return Err("the server is still in use".into());
    };
    server.stop()?;
    for _ in 0..turns {
        let (server, time) = Server::start(&Kind::Ours, dir).await?;
        row.add(1, time.as_secs_f64(), None);
        server.stop()?;
    }
    Ok(row)
}

//! Simulated nodes. Images are drawn from names that all nodes share, as in a real fleet: some are on every
//! node, most on a few.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most images of a part of a snapshot.
const PAGE_ROWS: usize = 1000;

/// What the nodes have in common.
pub struct Fleet {
    /// The images of a node.
    pub images: usize,
    /// The names that there are.
    names: usize,
    now: String,
}

impl Fleet {
    pub fn new(images: usize) -> Self {
        Self { images, names: images * 8, now: now() }
    }

    fn name(&self, number: usize) -> String {
        format!("registry.example.com/team-{}/service-{number}:v{}", number % 40, number % 7)
    }
}

/// A node.
pub struct Node {
    pub name: String,
    number: usize,
    seq: u64,
    /// Which digest each image has.
    versions: Vec<u32>,
}

impl Node {
    pub fn new(number: usize, fleet: &Fleet) -> Self {
        let versions = vec![0; fleet.images];
        Self { name: format!("node-{number:05}"), number, seq: 1, versions }
    }

    /// The name of its image of this number. A tenth of the images are on every node.
    fn image(&self, fleet: &Fleet, image: usize) -> usize {
        if image < fleet.images / 10 {
            return image;
        }
        // Different images of a node have different names: 7919 is prime to the number of names.
        let step = (self.number * 31 + image) * 7919;
        fleet.images / 10 + step % (fleet.names - fleet.images / 10)
    }

    fn log(&self) -> String {
        format!("{:08x}-0000-4000-8000-{:012x}", self.number, self.number)
    }

    /// The reports of its first snapshot.
    pub fn snapshot(&mut self, fleet: &Fleet) -> Vec<String> {
        let (log, token) = (self.log(), format!("{:08x}-0000-4000-9000-000000000000", self.number));
        let mut reports = vec![self.hello()];
        let mut names: Vec<usize> = (0..fleet.images).map(|i| self.image(fleet, i)).collect();
        names.sort_unstable();
        names.dedup();
        for (page, part) in names.chunks(PAGE_ROWS).enumerate() {
            let rows: Vec<_> = part
                .iter()
                .map(|name| {
                    let (name, digest, now) = (fleet.name(*name), digest(*name, 0), &fleet.now);
                    format!(r#"{{"ns":"k8s.io","name":"{name}","new":"{digest}","at":"{now}"}}"#)
                })
                .collect();
            let rows = rows.join(",");
            reports.push(format!(
                r#"{{"v":"1","log":"{log}","kind":"page","token":"{token}","page":{page},"rows":[{rows}]}}"#
            ));
        }
        reports.push(format!(
            r#"{{"v":"1","log":"{log}","kind":"snapshot","token":"{token}","count":{},"why":"first","at":{}}}"#,
            names.len(),
            place(self.seq)
        ));
        reports
    }

    /// Makes this number of changes: images of this node get their next digests.
    pub fn changes(&mut self, fleet: &Fleet, count: usize, random: &mut fastrand::Rng) -> String {
        let (log, after) = (self.log(), self.seq);
        let mut rows = String::new();
        let now = now();
        for _ in 0..count {
            self.seq += 1;
            let image = random.usize(..fleet.images);
            let name = self.image(fleet, image);
            let version = self.versions[image];
            self.versions[image] += 1;
            // Writing to a String cannot fail.
            let _ = write!(
                rows,
                r#"{}{{"seq":{},"at":"{now}","kind":2,"origin":1,"ns":"k8s.io","name":"{}","old":"{}","new":"{}","uid":0,"comm":"kubelet"}}"#,
                if rows.is_empty() { "" } else { "," },
                self.seq,
                fleet.name(name),
                digest(name, version),
                digest(name, version + 1)
            );
        }
        format!(
            r#"{{"v":"1","log":"{log}","kind":"changes","after":{},"to":{},"changes":[{rows}]}}"#,
            place(after),
            place(self.seq)
        )
    }

    /// "I am here."
    pub fn hello(&self) -> String {
        format!(
            r#"{{"v":"1","log":"{log}","kind":"hello","store":"{log}","head":{{"first":1,"last":{},"chain":"{:016x}"}},"machine":"{}.example.com","boot":"{log}","version":"0.1.0","now":"{}"}}"#,
            self.seq,
            self.seq,
            self.name,
            now(),
            log = self.log()
        )
    }
}

fn place(seq: u64) -> String {
    format!(r#"{{"seq":{seq},"chain":"{seq:016x}"}}"#)
}

fn digest(name: usize, version: u32) -> String {
    format!("sha256:{name:08x}{version:08x}{:048x}", 0)
}

/// The time as PostgreSQL reads it.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    jiff::Timestamp::from_microsecond(now.as_micros() as i64)
        .map_or_else(|_| String::new(), |t| t.to_string())
}

//! The table of a siege, and the figures that exceed their bounds.

use std::time::Duration;

use super::attacks::Attack;
use super::probe::{Seen, Waits};

/// The most memory of the daemon under any attack, in bytes. This bound and those below are for two processors.
pub const MAX_MEMORY: u64 = 256 << 20;
/// The longest wait of a Get, a Create and a List.
pub const MAX_GET: Duration = Duration::from_millis(100);
pub const MAX_CREATE: Duration = Duration::from_secs(1);
pub const MAX_LIST: Duration = Duration::from_secs(5);
/// The most bytes by which the data file may grow during reads.
pub const MAX_GROWTH: u64 = 64 << 20;

/// The bounds that attacks exceeded so far, and the most memory.
pub struct Report {
    beyond: Vec<String>,
    most_memory: (u64, &'static str),
}

impl Report {
    pub fn begin() -> Self {
        println!(
            "| attack | blows | RssAnon max, MiB | p99 of a Get, ms: quiet | under attack | ratio | of another daemon | longest Get, ms | Create | List | scrape | of another daemon | data.mdb grew, MiB | log grew, KiB | after |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        Self { beyond: Vec::new(), most_memory: (0, "") }
    }

    pub fn add(&mut self, attack: &Attack, blows: &str, quiet: &Seen, seen: &Seen, serves: bool) {
        let p99 = quiet.get.p99().zip(seen.get.p99());
        let ratio = p99.map_or(f64::NAN, |(q, b)| b.as_secs_f64() / q.as_secs_f64());
        println!(
            "| {} | {} | {:.1} | {} | {} | {ratio:.1} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {} |",
            attack.name,
            blows.trim(),
            mib(seen.memory),
            ms(quiet.get.p99()),
            ms(seen.get.p99()),
            ms(seen.elsewhere.p99()),
            longest(&seen.get),
            longest(&seen.create),
            longest(&seen.list),
            longest(&seen.scrape),
            longest(&seen.elsewhere),
            mib(seen.data_growth),
            seen.log_growth as f64 / 1024.0,
            if serves { "serves" } else { "DEAD" }
        );
        self.most_memory = self.most_memory.max((seen.memory, attack.name));
        let beyond = beyond(seen, attack.reads);
        self.beyond.extend(beyond.into_iter().map(|what| format!("{}: {what}", attack.name)));
    }

    pub fn end(self) {
        let (memory, name) = self.most_memory;
        println!(
            "\nMost memory: {:.1} MiB ({name}); docs/limits.md says what it is the sum of.",
            mib(memory)
        );
        println!("Beyond what is asked: {}", self.beyond.len());
        self.beyond.iter().for_each(|line| println!("- {line}"));
    }
}

/// The bounds that an attack exceeded, as text. The longest wait at the other daemon is subtracted from each
/// wait, because the machine causes it.
pub fn beyond(seen: &Seen, reads: bool) -> Vec<String> {
    let machine = seen.elsewhere.longest().unwrap_or_default();
    let waits = [
        ("a Get", &seen.get, MAX_GET),
        ("a Create", &seen.create, MAX_CREATE),
        ("a List", &seen.list, MAX_LIST),
    ];
    let mut beyond = Vec::new();
    for (what, waits, most) in waits {
        let waited = waits.longest().unwrap_or_default();
        if let Some(refused) = &waits.refused {
            beyond.push(format!("{what} was refused: {refused}"));
        }
        if waits.has_failed {
            beyond.push(format!("{what} failed"));
        } else if waited > most + machine {
            beyond.push(format!(
                "{what} waited {} ms, asked are {} ms",
                ms(Some(waited)),
                most.as_millis()
            ));
        }
    }
    if seen.memory > MAX_MEMORY {
        beyond.push(format!(
            "{:.1} MiB of memory, asked are {:.0}",
            mib(seen.memory),
            mib(MAX_MEMORY)
        ));
    }
    if reads && seen.data_growth > MAX_GROWTH {
        beyond.push(format!(
            "data.mdb grew by {:.1} MiB, asked are {:.0}",
            mib(seen.data_growth),
            mib(MAX_GROWTH)
        ));
    }
    beyond
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub fn ms(time: Option<Duration>) -> String {
    time.map_or("none".into(), |time| format!("{:.2}", time.as_secs_f64() * 1e3))
}

pub fn longest(waits: &Waits) -> String {
    match &waits.refused {
        _ if waits.has_failed => "FAILED".into(),
        Some(_) => format!("{}, refused", ms(waits.longest())),
        None => ms(waits.longest()),
    }
}

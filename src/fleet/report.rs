//! What a node reports, as JSON, and the answer. `schema/functions.sql` takes it; NATS carries the same.

use protobuf::well_known_types::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::catalog::Change;
use crate::clock;
use crate::model::UnixTime;

/// The version of these messages.
const VERSION: &str = "1";

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The number of a change.
    pub seq: u64,
    /// Its chain in hexadecimal digits; none if it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

impl Place {
    /// The place of a change.
    pub fn new(seq: u64, chain: u64) -> Self {
        Self { seq, chain: Some(format!("{chain:016x}")) }
    }
}

/// A report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    v: String,
    /// The epoch of the node's log.
    pub log: String,
    /// What is reported.
    #[serde(flatten)]
    pub what: What,
}

impl Report {
    /// A report about a log.
    pub fn new(log: &str, what: What) -> Self {
        Self { v: VERSION.into(), log: log.into(), what }
    }
}

/// What is reported.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum What {
    /// The node is there, and this is the end of its log.
    Hello(Hello),
    /// Changes in order.
    Changes {
        /// The change before them.
        after: Place,
        /// The last of them.
        to: Place,
        /// All of them.
        changes: Vec<ChangeRow>,
    },
    /// A part of a snapshot.
    Page {
        /// The snapshot.
        token: String,
        /// The number of the part, from 0 on.
        page: u64,
        /// Images.
        rows: Vec<ImageRow>,
    },
    /// All parts were sent.
    Snapshot {
        /// The snapshot.
        token: String,
        /// How many images its parts have.
        count: u64,
        /// Why it was wanted.
        why: String,
        /// The change after which the log goes on.
        at: Place,
    },
}

/// The node and the ends of its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The store's UUID.
    pub store: String,
    /// The ends of the log.
    pub head: Head,
    /// The name of the machine.
    pub machine: String,
    /// The boot of its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The version of this program.
    pub version: String,
    /// The machine's clock.
    pub now: String,
}

/// The ends of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// The oldest change that is kept.
    pub first: u64,
    /// The newest change.
    pub last: u64,
    /// Its chain.
    pub chain: String,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeRow {
    seq: u64,
    at: String,
    kind: i32,
    origin: i32,
    ns: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<String>,
}

impl From<&Change> for ChangeRow {
    fn from(change: &Change) -> Self {
        let digest = |state: &crate::api::catalog::State| text(&state.target.digest);
        let actor = change.actor.as_ref();
        Self {
            seq: change.seq,
            at: time(change.time.as_ref().map_or_else(clock::now, unix)),
            kind: change.kind.value(),
            origin: change.origin.value(),
            ns: text(&change.namespace),
            name: text(&change.name),
            old: change.before.as_ref().map(digest),
            new: change.after.as_ref().map(digest),
            uid: actor.and_then(|actor| actor.uid),
            comm: actor.map(|actor| text(&actor.comm)).filter(|comm| !comm.is_empty()),
        }
    }
}

/// An image of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRow {
    ns: String,
    name: String,
    new: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

impl From<&Change> for ImageRow {
    /// The image that a change of `KIND_PRESENT` shows. It has its digest since its last update or earlier.
    fn from(change: &Change) -> Self {
        let state = change.after.as_ref();
        let updated = state.and_then(|state| state.updated_at.as_ref());
        Self {
            ns: text(&change.namespace),
            name: text(&change.name),
            new: state.map(|state| text(&state.target.digest)).unwrap_or_default(),
            at: updated.map(|at| time(unix(at))),
        }
    }
}

/// PostgreSQL's texts cannot hold the character NUL, image names can: its picture stands for it.
fn text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn unix(at: &Timestamp) -> UnixTime {
    UnixTime { seconds: at.seconds, nanos: u32::try_from(at.nanos).unwrap_or_default() }
}

/// A time in the form that PostgreSQL reads, in UTC.
pub fn time(at: UnixTime) -> String {
    // Neither a year before 1 nor more digits than PostgreSQL keeps.
    let nanos = at.nanos - at.nanos % 1000;
    UnixTime { seconds: at.seconds.max(0), nanos }.to_jiff().to_string()
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// Changes that follow `seq`.
    Changes,
    /// The next part of the snapshot.
    Page,
    /// A snapshot.
    Snapshot,
}

/// The answer to a report.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    /// What was reported is in the tables.
    pub ok: bool,
    /// What is wanted next.
    pub want: Want,
    /// Why something else is wanted than what was reported.
    #[serde(default)]
    pub why: Option<String>,
    /// The newest change that the tables contain.
    pub seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_nul_becomes_a_text_that_postgresql_takes() {
        let change = Change { name: "a\0b".into(), seq: 7, ..Change::default() };
        let row = serde_json::to_string(&ChangeRow::from(&change)).unwrap();
        assert!(row.contains("a\u{2400}b") && !row.contains("\\u0000"), "{row}");
    }

    #[test]
    fn a_chain_keeps_all_its_digits() {
        assert_eq!(Place::new(1, 0xab).chain.as_deref(), Some("00000000000000ab"));
    }
}

//! Reports of nodes and the answers to them, as JSON. `schema/reports.sql` takes reports; NATS carries the same JSON.

use protobuf::well_known_types::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::catalog::Change;
use crate::clock;
use crate::model::UnixTime;

/// The version of these messages.
const VERSION: &str = "1";

/// The most bytes of a report as JSON, unless one row has more. A message of NATS has 1 MiB at most.
pub(crate) const MAX_REPORT_BYTES: usize = 512 << 10;

/// The bytes of a row as JSON, without its texts.
const ROW_JSON_BYTES: usize = 160;

/// A position in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    /// The number of a change.
    pub(crate) seq: u64,
    /// The chain in hexadecimal digits; `None` if it is no longer known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<String>,
}

impl LogPosition {
    /// The position of a change.
    pub(crate) fn new(seq: u64, chain: u64) -> Self {
        Self { seq, chain: Some(format!("{chain:016x}")) }
    }
}

/// A report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    v: String,
    /// The epoch of the node's log.
    pub(crate) log: String,
    /// The body.
    #[serde(flatten)]
    pub(crate) body: Body,
}

impl NodeReport {
    /// A report about a log.
    pub(crate) fn new(log: &str, body: Body) -> Self {
        Self { v: VERSION.into(), log: log.into(), body }
    }
}

/// The body of a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Body {
    /// The node runs; these are the ends of its log.
    Hello(Hello),
    /// Changes in order.
    Changes {
        /// The change before `changes`.
        after: LogPosition,
        /// The last of `changes`.
        to: LogPosition,
        /// The changes.
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
        /// The number of images in its parts.
        count: u64,
        /// Why the server wanted it.
        why: String,
        /// The change at which the snapshot was taken. The next report begins after it.
        at: LogPosition,
    },
}

/// The node and the ends of its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The store's UUID.
    pub(crate) store: String,
    /// The ends of the log.
    pub(crate) head: Head,
    /// The name of the machine.
    pub(crate) machine: String,
    /// The boot of its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    /// The version of this program.
    pub(crate) version: String,
    /// The machine's clock.
    pub(crate) now: String,
}

/// The ends of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The oldest change that is kept.
    pub(crate) first: u64,
    /// The newest change.
    pub(crate) last: u64,
    /// The chain.
    pub(crate) chain: String,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChangeRow {
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

impl ChangeRow {
    /// About how many bytes it has as JSON.
    pub(crate) fn json_bytes(&self) -> usize {
        let texts = [
            Some(&self.ns),
            Some(&self.name),
            self.old.as_ref(),
            self.new.as_ref(),
            self.comm.as_ref(),
        ];
        texts
            .into_iter()
            .flatten()
            .fold(ROW_JSON_BYTES, |sum, text| sum.saturating_add(json_bytes(text)))
    }
}

impl From<&Change> for ChangeRow {
    fn from(change: &Change) -> Self {
        let digest = |state: &crate::api::catalog::State| postgres_text(&state.target.digest);
        let actor = change.actor.as_ref();
        Self {
            seq: change.seq,
            at: postgres_time(change.time.as_ref().map_or_else(clock::now, unix_time)),
            kind: change.kind.value(),
            origin: change.origin.value(),
            ns: postgres_text(&change.namespace),
            name: postgres_text(&change.name),
            old: change.before.as_ref().map(digest),
            new: change.after.as_ref().map(digest),
            uid: actor.and_then(|actor| actor.uid),
            comm: actor.map(|actor| postgres_text(&actor.comm)).filter(|comm| !comm.is_empty()),
        }
    }
}

/// An image of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    ns: String,
    name: String,
    new: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

impl ImageRow {
    /// About how many bytes it has as JSON.
    pub(crate) fn json_bytes(&self) -> usize {
        let texts = [&self.ns, &self.name, &self.new];
        texts.into_iter().fold(ROW_JSON_BYTES, |sum, text| sum.saturating_add(json_bytes(text)))
    }
}

impl From<&Change> for ImageRow {
    /// The image that a change of `KIND_PRESENT` shows. It has its digest since its last update or earlier.
    fn from(change: &Change) -> Self {
        let state = change.after.as_ref();
        let updated = state.and_then(|state| state.updated_at.as_ref());
        Self {
            ns: postgres_text(&change.namespace),
            name: postgres_text(&change.name),
            new: state.map(|state| postgres_text(&state.target.digest)).unwrap_or_default(),
            at: updated.map(|at| postgres_time(unix_time(at))),
        }
    }
}

/// The bytes of a text in JSON.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// A text for PostgreSQL. An image name may have the character NUL, which PostgreSQL's texts cannot hold: the symbol
/// U+2400 stands for it.
fn postgres_text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn unix_time(at: &Timestamp) -> UnixTime {
    UnixTime { seconds: at.seconds, nanos: u32::try_from(at.nanos).unwrap_or_default() }
}

/// A time in the form that PostgreSQL reads, in UTC.
pub(crate) fn postgres_time(at: UnixTime) -> String {
    // No year before 1, and no more digits than PostgreSQL keeps.
    let nanos = at.nanos - at.nanos % 1000;
    UnixTime { seconds: at.seconds.max(0), nanos }.to_jiff().to_string()
}

/// The report that the server wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Want {
    /// Changes that follow `seq`.
    Changes,
    /// The next part of the snapshot.
    Page,
    /// A snapshot.
    Snapshot,
}

/// The answer to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Whether the tables have the reported content.
    pub(crate) ok: bool,
    /// The report that the server wants next.
    pub(crate) want: Want,
    /// Why the server did not accept the report, or wants a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// The log that the tables follow; none before the first snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<String>,
    /// The newest change of it that the tables contain.
    pub(crate) seq: u64,
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
    fn the_size_of_a_row_is_known_before_it_is_written() {
        let name = "é\n\"".repeat(500);
        let change = Change { name: name.clone(), seq: u64::MAX, ..Change::default() };
        let rows = [
            (ChangeRow::from(&change).json_bytes(), serde_json::to_vec(&ChangeRow::from(&change))),
            (ImageRow::from(&change).json_bytes(), serde_json::to_vec(&ImageRow::from(&change))),
        ];
        for (counted, json) in rows {
            let bytes = json.unwrap().len();
            assert!((bytes..=bytes + ROW_JSON_BYTES).contains(&counted), "{counted} of {bytes}");
        }
    }

    #[test]
    fn a_chain_keeps_all_its_digits() {
        assert_eq!(LogPosition::new(1, 0xab).chain.as_deref(), Some("00000000000000ab"));
    }
}

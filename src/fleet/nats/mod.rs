//! Reports through NATS JetStream, for nodes that cannot reach the database.
//!
//! - [`address`]: the URL, and a connection
//! - [`progress`]: how far a node has reported, kept in a header of each report
//! - [`publish`]: `ship --to nats://…`
//! - [`collect`]: `fleet collect`, which hands the reports on to the database
//!
//! **The same reports.** A message of the stream is a report in the form that PostgreSQL accepts. The collector
//! does not decode it: it calls `fleet.report_of` with the node that the subject names, and acknowledges the
//! message after the database has committed. The function stores a report once, however often the message arrives.
//!
//! **The newest message of a node keeps the position** until the database has it: its header says up
//! to which change the node has reported. A publisher reads it when it starts, and each message names the
//! sequence number of the message before, so that two publishers of one node cannot interleave.
//!
//! **The way back.** A publisher does not see the answer of the database. If the answer differs from the header,
//! the collector sends the answer on a subject of the node: the tables were restored from a backup, or messages
//! were lost. The publisher then continues from that change, or sends a snapshot. If such an answer is lost, the
//! next heartbeat causes another one. Before a node sends a snapshot, it waits for the answer to its hello: the
//! database may know the node although the stream is new.
//!
//! **Order.** The reports of a node stay in order: the nodes are divided into partitions, and a collector gets one
//! message of a partition at a time. Several collectors share the partitions.

use std::fmt;

pub(crate) mod address;
pub(crate) mod collect;
pub(crate) mod progress;
pub(crate) mod publish;

/// The stream.
pub(crate) const STREAM: &str = "LMDB_IMAGES_FLEET";

/// The prefix of the subjects of reports.
const REPORTS: &str = "lmdb-images.fleet.report";

/// The prefix of the subjects of answers.
const ANSWERS: &str = "lmdb-images.fleet.answer";

/// How many partitions there are. Changing it would change the order of reports that are in the stream.
const PARTITIONS: u32 = 16;

/// The header with the progress of the node after this report.
const PROGRESS_HEADER: &str = "Lmdb-Images-Standing";

/// The most bytes of a node's name.
const MAX_NODE_BYTES: usize = 200;

/// The subject of a node's reports.
fn reports_of(node: &str) -> String {
    let partition = crc32fast::hash(node.as_bytes()) % PARTITIONS;
    format!("{REPORTS}.{partition}.{node}")
}

/// The subjects of the reports of a partition.
fn reports_in(partition: impl fmt::Display) -> String {
    format!("{REPORTS}.{partition}.>")
}

/// The subject of the answers to a node.
fn answers_to(node: &str) -> String {
    format!("{ANSWERS}.{node}")
}

/// The node of a report's subject.
fn node_of(subject: &str) -> Option<&str> {
    let (_, node) = subject.strip_prefix(REPORTS)?.strip_prefix('.')?.split_once('.')?;
    is_node_name(node).then_some(node)
}

/// Whether a subject can end with this name.
fn is_node_name(name: &str) -> bool {
    name.len() <= MAX_NODE_BYTES
        && name.split('.').all(|part| !part.is_empty())
        && name.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != '>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_a_subject_is_the_one_that_it_was_made_for() {
        for node in ["node-17", "node-17.example.com", "ü"] {
            assert_eq!(node_of(&reports_of(node)), Some(node));
        }
        for subject in ["", "lmdb-images.fleet.report.3", "lmdb-images.fleet.reports.3.a", "x.3.a"]
        {
            assert_eq!(node_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_name_that_would_be_another_subject_is_refused() {
        let long = "a".repeat(MAX_NODE_BYTES + 1);
        for name in ["", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "a\n", long.as_str()] {
            assert!(!is_node_name(name), "{name:?}");
        }
    }
}

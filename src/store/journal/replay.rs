//! Reads a journal: the changes since the last checkpoint, or the reason why they are unknown.

use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE};
use std::fmt;
use std::io::Read;
use std::path::Path;

use super::entry::{JournalEntry, WriteBatch};
use super::header::Header;
use super::layout::{LENGTH, SECTOR};
use crate::model::{Context, Error, Result};
use crate::store::dir::permissions;
use crate::store::schema::checkpoint_id::Expected;

/// The changes since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// The changes, in order.
    pub(crate) batches: Vec<WriteBatch>,
    /// The bytes of their entries, in the order of the file.
    bytes: Vec<u8>,
}

impl Replay {
    /// The bytes of the entries, in the order of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The reason why a journal cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JournalFault {
    /// There is no file.
    Missing,
    /// The file ends too early.
    Cut(usize),
    /// The header is damaged.
    Header,
    /// The header names another store, by its UUID.
    OtherStore(String),
    /// The header names a checkpoint that is neither the last one nor the one before.
    OtherCheckpoint,
    /// An entry is missing: its number, and the highest number that was found.
    Gap(u32, u32),
}

impl fmt::Display for JournalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is missing"),
            Self::Cut(length) => write!(f, "it has {length} bytes instead of {LENGTH}"),
            Self::Header => f.write_str("its header is damaged"),
            Self::OtherStore(uuid) => write!(f, "it belongs to another store, {uuid}"),
            Self::OtherCheckpoint => f.write_str("its header names an unknown checkpoint"),
            Self::Gap(number, _) => {
                write!(f, "entry {number} is missing, and later ones are there")
            }
        }
    }
}

impl JournalFault {
    /// The error about the journal in the folder `root`.
    pub(crate) fn error(&self, root: &Path) -> Error {
        let root = root.display();
        Error::DataLoss(format!(
            "{root}/{JOURNAL_FILE} is damaged: {self}; answered changes may be in it that {root}/{} lacks; \
             nothing was changed; run `lmdb-images recover --root {root}` to save what can be saved, or \
             `lmdb-images restore --root {root} --force FILE` to go back to a backup",
            DATA_FILE
        ))
    }
}

/// Reads the changes that the journal in the folder `root` has on top of LMDB's file. No other process
/// may be writing it, or the caller confirms a [`JournalFault`] with [`persists`].
pub(crate) fn read(root: &Path, expected: &Expected) -> Result<Result<Replay, JournalFault>> {
    Ok(examine(bytes(root, false)?.as_deref(), expected))
}

/// The same beside a daemon that may be writing the journal. The returned changes are on disk: the daemon's own
/// sync of an entry may still be running, and a power cut must not revert a change that a reader has printed.
pub(crate) fn read_and_sync(
    root: &Path,
    expected: &Expected,
) -> Result<Result<Replay, JournalFault>> {
    Ok(examine(bytes(root, true)?.as_deref(), expected))
}

/// Whether a fault is damage, given that `again` was read after it, without a checkpoint in between. A writer
/// appends an entry after the previous one is whole. So after a read that found entry n, a later read finds all
/// entries below n.
pub(crate) fn persists(fault: &JournalFault, again: &JournalFault) -> bool {
    match (fault, again) {
        (JournalFault::Gap(_, highest), JournalFault::Gap(missing, _)) => missing <= highest,
        _ => fault == again,
    }
}

fn examine(bytes: Option<&[u8]>, expected: &Expected) -> Result<Replay, JournalFault> {
    let header = bytes.and_then(Header::decode);
    if let Some(named) = expected.last.journal {
        let bytes = bytes.ok_or(JournalFault::Missing)?;
        if bytes.len() < LENGTH {
            return Err(JournalFault::Cut(bytes.len()));
        }
        let header = header.as_ref().ok_or(JournalFault::Header)?;
        if header.uuid != expected.uuid {
            return Err(JournalFault::OtherStore(header.uuid.clone()));
        }
        if header.checkpoint != expected.last.id && header.checkpoint != named {
            return Err(JournalFault::OtherCheckpoint);
        }
    }
    match (bytes, header) {
        (Some(bytes), Some(header))
            if header.uuid == expected.uuid && header.checkpoint == expected.last.id =>
        {
            entries(bytes, SECTOR, expected)
        }
        _ => Ok(Replay::default()),
    }
}

/// Reads the changes of a store of schema 3, whose journal has no header.
pub(crate) fn read_v1(root: &Path, uuid: &str, checkpoint: u64) -> Result<Replay> {
    let last =
        crate::store::schema::checkpoint_id::LastCheckpoint { id: checkpoint, journal: None };
    let expected = Expected { uuid: uuid.to_owned(), last };
    let bytes = bytes(root, false)?.unwrap_or_default();
    entries(&bytes, 0, &expected).map_err(|fault| fault.error(root))
}

fn entries(bytes: &[u8], start: usize, expected: &Expected) -> Result<Replay, JournalFault> {
    let counts =
        |entry: &JournalEntry| entry.uuid == expected.uuid && entry.checkpoint == expected.last.id;
    let mut changes = Vec::new();
    let mut end = start;
    while let Some((entry, length)) = bytes.get(end..).and_then(JournalEntry::decode) {
        if !counts(&entry) || entry.number as usize != changes.len() {
            break;
        }
        changes.push(entry.batch);
        end = end.saturating_add(length).next_multiple_of(SECTOR);
    }
    let next = u32::try_from(changes.len()).unwrap_or(u32::MAX);
    let behind = whole(bytes, end).filter(|e| counts(e) && e.number > next).map(|e| e.number).max();
    if let Some(highest) = behind {
        return Err(JournalFault::Gap(next, highest));
    }
    let bytes = bytes.get(start..end.min(bytes.len())).unwrap_or_default().to_vec();
    Ok(Replay { batches: changes, bytes })
}

/// The readable parts of a journal, whatever store it belongs to.
#[derive(Debug, Default)]
pub(crate) struct ReadableJournal {
    /// The header, if that is whole.
    pub(crate) header: Option<Header>,
    /// The entries that are whole, in the order of the file.
    pub(crate) entries: Vec<JournalEntry>,
}

/// Reads the whole entries of the folder's journal, for a damaged store.
pub(crate) fn read_damaged(root: &Path) -> Result<ReadableJournal> {
    let bytes = bytes(root, false)?.unwrap_or_default();
    Ok(ReadableJournal { header: Header::decode(&bytes), entries: whole(&bytes, 0).collect() })
}

fn whole(bytes: &[u8], from: usize) -> impl Iterator<Item = JournalEntry> {
    let sectors = bytes.get(from..).unwrap_or_default().chunks(SECTOR).enumerate();
    let begins = sectors.filter(|(_, sector)| JournalEntry::begins(sector));
    begins.filter_map(move |(number, _)| {
        bytes.get(from + number * SECTOR..).and_then(JournalEntry::decode).map(|(entry, _)| entry)
    })
}

fn bytes(root: &Path, sync: bool) -> Result<Option<Vec<u8>>> {
    let path = root.join(JOURNAL_FILE);
    permissions::stat_regular(&path)?;
    let Some(file) = permissions::open_regular(&path, false)? else { return Ok(None) };
    let mut bytes = Vec::new();
    (&file)
        .take(LENGTH as u64)
        .read_to_end(&mut bytes)
        .or_internal(format_args!("reading {}", path.display()))?;
    if sync {
        permissions::sync_read(&path, &file)?;
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use super::super::entry::{HEADER_BYTES, UUID_BYTES};
    use super::*;
    use crate::store::schema::checkpoint_id::LastCheckpoint;
    use crate::store::schema::table::Table;

    fn uuid() -> String {
        "u".repeat(UUID_BYTES)
    }

    fn expected(checkpoint: u64) -> Expected {
        Expected { uuid: uuid(), last: LastCheckpoint { id: checkpoint, journal: Some(1) } }
    }

    fn entry(checkpoint: u64, number: u32, length: usize) -> Vec<u8> {
        let mut changes = WriteBatch::new(super::super::layout::MAX_ENTRY_BYTES);
        changes.push((Table::Records, &number.to_le_bytes(), Some(&vec![7; length])));
        JournalEntry { checkpoint, base: Some(3), number, uuid: uuid(), batch: changes }
            .encode()
            .unwrap()
    }

    fn open(root: &Path, checkpoint: u64, replay: &Replay) -> Journal {
        Journal::open(root, &Header { checkpoint, uuid: uuid() }, replay).unwrap()
    }

    fn numbers(replay: Result<Replay, JournalFault>) -> Result<Vec<u8>, JournalFault> {
        let first = |changes: &WriteBatch| changes.iter().next().unwrap().1[0];
        replay.map(|replay| replay.batches.iter().map(first).collect())
    }

    fn found(root: &Path, checkpoint: u64) -> Result<Vec<u8>, JournalFault> {
        numbers(read(root, &expected(checkpoint)).unwrap())
    }

    #[test]
    fn entries_of_the_last_checkpoint_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(found(dir.path(), 1), Err(JournalFault::Missing));
        let mut journal = open(dir.path(), 1, &Replay::default());
        for number in 0..5 {
            journal.append(&entry(1, number, 1000)).unwrap();
        }
        assert_eq!(found(dir.path(), 1), Ok(vec![0, 1, 2, 3, 4]));
        // The checkpoint after has all of them.
        assert_eq!(found(dir.path(), 2), Ok(vec![]));
        let other = Expected { uuid: "another".into(), ..expected(1) };
        assert_eq!(
            numbers(read(dir.path(), &other).unwrap()),
            Err(JournalFault::OtherStore(uuid()))
        );
        // Another process goes on behind them.
        let replay = read(dir.path(), &expected(1)).unwrap().unwrap();
        let mut journal = open(dir.path(), 1, &replay);
        journal.append(&entry(1, 5, 1)).unwrap();
        assert_eq!(found(dir.path(), 1), Ok(vec![0, 1, 2, 3, 4, 5]));
        journal.begin(&Header { checkpoint: 2, uuid: uuid() }).unwrap();
        journal.append(&entry(2, 0, 1)).unwrap();
        assert_eq!(found(dir.path(), 2), Ok(vec![0]));
        let unknown = Expected { last: LastCheckpoint { id: 4, journal: Some(3) }, ..expected(0) };
        assert_eq!(
            numbers(read(dir.path(), &unknown).unwrap()),
            Err(JournalFault::OtherCheckpoint)
        );
        // The new one, and five of the checkpoint before.
        assert_eq!(read_damaged(dir.path()).unwrap().entries.len(), 6);
        assert_eq!(dir.path().join(JOURNAL_FILE).metadata().unwrap().len(), LENGTH as u64);
    }

    /// A journal with that many entries of three sectors each.
    fn journal(count: u32) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path(), 1, &Replay::default());
        (0..count).for_each(|number| journal.append(&entry(1, number, 1000)).unwrap());
        std::fs::read(dir.path().join(JOURNAL_FILE)).unwrap()
    }

    #[test]
    fn a_missing_entry_is_noticed_and_a_torn_last_one_is_none() {
        let whole = journal(3);
        let damaged = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            numbers(examine(Some(&bytes), &expected(1)))
        };
        let at = |number: usize| SECTOR * (1 + 3 * number);
        assert_eq!(damaged(at(0) + HEADER_BYTES), Err(JournalFault::Gap(0, 2)));
        assert_eq!(damaged(at(1) + 600), Err(JournalFault::Gap(1, 2)));
        assert_eq!(damaged(at(2) + 600), Ok(vec![0, 1]));
        assert_eq!(damaged(at(2) + 8), Ok(vec![0, 1]));
    }

    #[test]
    fn a_read_in_pieces_beside_a_writer_is_not_taken_for_damage() {
        // The reader gets its first piece before entries are appended, and the rest after.
        let piecewise = |before: u32, after: u32| {
            let cut = SECTOR * (2 + 3 * before as usize);
            let bytes = [&journal(before)[..cut], &journal(after)[cut..]].concat();
            examine(Some(&bytes), &expected(1)).unwrap_err()
        };
        let (first, second) = (piecewise(2, 5), piecewise(6, 9));
        assert_eq!((&first, &second), (&JournalFault::Gap(2, 4), &JournalFault::Gap(6, 8)));
        assert!(!persists(&first, &second));
        // Entry 2 is still missing after entry 4 was seen.
        assert!(persists(&first, &piecewise(2, 7)));
    }
}

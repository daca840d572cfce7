//! The journal: changes that are answered before they are in LMDB's file.
//!
//! LMDB writes every page of a change to another place and syncs twice; the changes themselves are a
//! few hundred bytes. So what the jobs of a batch changed is written here, behind what was changed
//! before, with one sync, and answered. From then on it is [`recent`](super::recent): every read
//! looks there too. After some of them, or a moment without any, a **checkpoint** writes what is
//! recent to LMDB's file in one transaction, and the journal begins anew.
//!
//! LMDB's file needs nothing of this to be whole: it is in the state of the last checkpoint, whose
//! number it knows. Entries that follow another checkpoint mean nothing.
//!
//! - [`entry`]: the bytes of an entry
//! - here: the file
//!
//! The file has its full length from the start, so that a write to it changes no table of the file
//! system. An entry begins a sector of its own: a disk writes sectors wholly or not at all.

pub mod entry;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::{folder, verify};
use crate::model::{Error, Result};
use entry::{CHECKPOINT, Changes, Entry, HEAD, MAGIC};

/// Its name in the folder of a store.
pub const FILE: &str = "journal";

/// Its length.
const LENGTH: usize = 256 << 10;

/// Where an entry may begin.
const SECTOR: usize = 512;

/// So many bytes of changes go into an entry at most: more are as well written to LMDB at once.
pub const MOST: usize = 64 << 10;

/// The file, open to be written.
#[derive(Debug)]
pub struct Journal {
    /// Every write to it is synced when it returns.
    file: File,
    /// Where the next entry goes.
    end: usize,
}

impl Journal {
    /// Opens the one in the folder, making it if need be, to write behind what was found there. On
    /// disk when this returns, but for its name: see [`Root::sync`](super::root::Root::sync).
    pub fn open(root: &Path, found: &Found) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_DSYNC.bits())
            .open(root.join(FILE))?;
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(LENGTH);
        if there < LENGTH {
            file.write_all_at(&vec![0; LENGTH - there], there as u64)?;
        }
        // What reads so may not be on disk: a process was ended in the middle of its write, or the
        // write failed. What comes behind it must not be lost with it.
        file.write_all_at(&found.bytes, 0)?;
        Ok(Self { file, end: found.bytes.len() })
    }

    /// Whether any entry finds room.
    pub fn has_room(&self) -> bool {
        self.end.saturating_add(HEAD + MOST) <= LENGTH
    }

    /// Writes an entry, which is on disk when this returns.
    pub fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        self.file.write_all_at(entry, self.end as u64)?;
        self.end = self.end.saturating_add(entry.len()).next_multiple_of(SECTOR);
        Ok(())
    }

    /// Empties it, so that nothing is found in it.
    pub fn clear(&mut self) -> io::Result<()> {
        self.end = 0;
        self.file.write_all_at(&[0; LENGTH], 0)
    }

    /// Begins anew: its entries follow a checkpoint that is no longer the last.
    pub fn restart(&mut self) {
        self.end = 0;
    }
}

/// What is read of a journal.
#[derive(Debug, Default)]
pub struct Found {
    /// The changes since the checkpoint, in order.
    pub changes: Vec<Changes>,
    /// They themselves, from the beginning of the file.
    bytes: Vec<u8>,
    /// Others follow, behind some that are missing: the file is damaged.
    pub gap: bool,
}

/// Reads what the folder's journal has of that store since that checkpoint.
pub fn read(root: &Path, uuid: &str, checkpoint: u64) -> Result<Found> {
    let mut bytes = bytes(root)?;
    let wanted = |entry: &Entry| entry.uuid == uuid && entry.checkpoint == checkpoint;
    let mut found = Found::default();
    let mut end = 0;
    while let Some((entry, length)) = bytes.get(end..).and_then(Entry::decode) {
        if !wanted(&entry) || entry.number as usize != found.changes.len() {
            break;
        }
        found.changes.push(entry.changes);
        end = end.saturating_add(length).next_multiple_of(SECTOR);
    }
    let next = found.changes.len();
    found.gap = whole(&bytes, end).any(|e| wanted(&e) && e.number as usize > next);
    bytes.truncate(end);
    found.bytes = bytes;
    Ok(found)
}

/// All that can be read of the folder's journal that follows its last checkpoint, in order: for a
/// store that is damaged. There is nothing when the store was closed as it should be.
pub fn salvage(root: &Path) -> Result<Vec<Changes>> {
    let bytes = bytes(root)?;
    let mut found: Vec<Entry> = whole(&bytes, 0).collect();
    // The first entry is of the last checkpoint, be it damaged: what looks like one inside it may not be.
    let first = bytes.get(CHECKPOINT..).and_then(|rest| rest.first_chunk());
    let first = first.map(|number| u64::from_le_bytes(*number));
    let known = found.iter().any(|entry| Some(entry.checkpoint) == first);
    let last = if known { first } else { found.first().map(|entry| entry.checkpoint) };
    found.retain(|entry| Some(entry.checkpoint) == last);
    found.sort_by_key(|entry| entry.number);
    Ok(found.into_iter().map(|entry| entry.changes).collect())
}

fn whole(bytes: &[u8], from: usize) -> impl Iterator<Item = Entry> {
    let sectors = bytes.get(from..).unwrap_or_default().chunks(SECTOR).enumerate();
    let begins = sectors.filter(|(_, sector)| sector.starts_with(MAGIC));
    begins.filter_map(move |(number, _)| {
        bytes.get(from + number * SECTOR..).and_then(Entry::decode).map(|(entry, _)| entry)
    })
}

fn bytes(root: &Path) -> Result<Vec<u8>> {
    let path = root.join(FILE);
    folder::look(&path)?;
    let mut bytes = Vec::new();
    if let Some(file) = verify::open(&path, false)? {
        file.take(LENGTH as u64)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::Internal(format!("reading {}: {e}", path.display())))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::table::Table;

    const UUID: &str = "123456789012345678901234567890123456";

    fn entry(checkpoint: u64, number: u32, length: usize) -> Vec<u8> {
        let mut changes = Changes::new(MOST);
        changes.push((Table::Records, &number.to_le_bytes(), Some(&vec![7; length])));
        Entry { checkpoint, number, uuid: UUID.into(), changes }.encode().unwrap()
    }

    fn numbers(changes: &[Changes]) -> Vec<u8> {
        changes.iter().map(|changes| changes.iter().next().unwrap().1[0]).collect()
    }

    #[test]
    fn entries_of_the_last_checkpoint_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), UUID, 1).unwrap().changes, []);
        let mut journal = Journal::open(dir.path(), &Found::default()).unwrap();
        for number in 0..5 {
            journal.append(&entry(1, number, 1000)).unwrap();
        }
        let found = read(dir.path(), UUID, 1).unwrap();
        assert_eq!((numbers(&found.changes), found.gap), (vec![0, 1, 2, 3, 4], false));
        for (uuid, checkpoint) in [(UUID, 0), (UUID, 2), ("another", 1)] {
            assert_eq!(read(dir.path(), uuid, checkpoint).unwrap().changes, []);
        }
        // As another process finds it.
        let mut journal = Journal::open(dir.path(), &found).unwrap();
        journal.append(&entry(1, 5, 1)).unwrap();
        assert_eq!(read(dir.path(), UUID, 1).unwrap().changes.len(), 6);
        journal.restart();
        journal.append(&entry(2, 0, 1)).unwrap();
        assert_eq!(numbers(&read(dir.path(), UUID, 2).unwrap().changes), [0]);
        assert_eq!(numbers(&salvage(dir.path()).unwrap()), [0]);
        assert_eq!(dir.path().join(FILE).metadata().unwrap().len(), LENGTH as u64);
    }

    #[test]
    fn what_is_missing_between_entries_is_noticed_and_what_is_torn_at_the_end_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &Found::default()).unwrap();
        for number in 0..3 {
            journal.append(&entry(1, number, 1000)).unwrap();
        }
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        let damaged = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            let found = read(dir.path(), UUID, 1).unwrap();
            (numbers(&found.changes), found.gap, numbers(&salvage(dir.path()).unwrap()))
        };
        let (second, third) = (3 * SECTOR, 6 * SECTOR);
        assert_eq!(damaged(70), (vec![], true, vec![1, 2]));
        assert_eq!(damaged(second + 600), (vec![0], true, vec![0, 2]));
        assert_eq!(damaged(third + 600), (vec![0, 1], false, vec![0, 1]));
        assert_eq!(damaged(third + 8), (vec![0, 1], false, vec![0, 1]));
    }

    #[test]
    fn any_entry_has_room_while_there_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), &Found::default()).unwrap();
        let largest = entry(1, 0, MOST - 12);
        assert_eq!(largest.len(), HEAD + MOST);
        while journal.has_room() {
            journal.append(&largest).unwrap();
        }
        assert_eq!(dir.path().join(FILE).metadata().unwrap().len(), LENGTH as u64);
    }
}

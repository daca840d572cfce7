//! The journal: writes that were answered before a checkpoint writes them to LMDB's file.
//!
//! For a write of a few hundred bytes LMDB copies every page on its path and syncs twice. So the
//! writer thread appends the writes of a batch to the journal, with one sync, and answers. From then
//! on the writes are in the [`overlay`], which every read consults. When the overlay is large enough,
//! or the writer thread is idle, a **checkpoint** writes the overlay to LMDB's file in one
//! transaction, and the journal restarts.
//!
//! - [`layout`]: the sizes of the file and its entries
//! - [`header`]: the first sector, which names the store and the checkpoint
//! - [`entry`]: the bytes of an entry
//! - [`Journal`]: the file, open for writing; [`replay`]: reading the file
//! - [`overlay`]: the writes since the last checkpoint, in memory
//!
//! LMDB's file always holds the complete state of its last checkpoint. It records the identifier C of
//! that checkpoint, and the identifier J that the journal's header named when the checkpoint was made
//! ([`LastCheckpoint`](crate::store::schema::checkpoint_id::LastCheckpoint)). If the journal's header
//! names C, its entries are replayed. If the header names J, LMDB's file already has all entries. Any
//! other header, a missing header and a file shorter than [`LENGTH`] are damage. If LMDB's file records
//! no J, it needs no journal: the file is new, or a copy, or was closed cleanly.
//!
//! **Invariant.** LMDB commits nothing while the header on disk is uncertain, and the journal has
//! entries only behind a header that names their checkpoint.
//!
//! The file has its full length from the start, so that a write changes no metadata of the file
//! system. Each entry starts at a sector boundary: a disk writes a sector completely or not at all.

pub mod entry;
pub(crate) mod header;
pub(crate) mod layout;
pub mod overlay;
pub(crate) mod replay;

use crate::store::dir::files::JOURNAL_FILE;
use layout::{LENGTH, MAX_ENTRY_BYTES, SECTOR};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use entry::HEADER_BYTES;
use header::Header;
use replay::Replay;

/// The journal file, open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Opened with `O_DSYNC`: a write is on disk when it returns.
    file: File,
    /// The offset of the next entry, in bytes.
    end: usize,
    /// The checkpoint that the header on disk names; `None` after a failed write of the header.
    checkpoint: Option<u64>,
}

impl Journal {
    /// Opens the file in the folder `root`, or creates it, to append to the entries that were replayed.
    /// The content is on disk when this function returns; the file's name is on disk after
    /// [`StoreDir::sync`](crate::store::dir::root::StoreDir::sync).
    pub(crate) fn open(root: &Path, header: &Header, replay: &Replay) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_DSYNC.bits())
            .open(root.join(JOURNAL_FILE))?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(LENGTH);
        if length < LENGTH {
            file.write_all_at(&vec![0; LENGTH - length], length as u64)?;
        }
        let mut journal = Self { file, end: SECTOR, checkpoint: None };
        // The replayed entries may be only in the page cache: the process that wrote them was killed
        // during the write, or the write failed. If they were lost, so would be every later entry.
        journal.file.write_all_at(replay.bytes(), SECTOR as u64)?;
        journal.begin(header)?;
        journal.end = SECTOR.saturating_add(replay.bytes().len()).next_multiple_of(SECTOR);
        Ok(journal)
    }

    /// The checkpoint that the header on disk names; `None` after a failed write of the header.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// Restarts the journal: no entries, and `header` names the checkpoint that they will follow.
    pub(crate) fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.checkpoint = None;
        self.end = SECTOR;
        let bytes = header.encode().ok_or_else(|| io::Error::other("the store's UUID is none"))?;
        self.file.write_all_at(&bytes, 0)?;
        self.checkpoint = Some(header.checkpoint);
        Ok(())
    }

    /// Whether there is room for an entry of any length.
    pub(crate) fn has_room(&self) -> bool {
        self.end.saturating_add(HEADER_BYTES + MAX_ENTRY_BYTES) <= LENGTH
    }

    /// Appends an entry. The entry is on disk when this function returns.
    pub(crate) fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        self.file.write_all_at(entry, self.end as u64)?;
        self.end = self.end.saturating_add(entry.len()).next_multiple_of(SECTOR);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::entry::{JournalEntry, WriteBatch};
    use super::*;
    use crate::store::schema::table::Table;

    #[test]
    fn a_journal_with_room_takes_an_entry_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = "u".repeat(entry::UUID_BYTES);
        let header = Header { checkpoint: 1, uuid: uuid.clone() };
        let mut journal = Journal::open(dir.path(), &header, &Replay::default()).unwrap();
        let mut changes = WriteBatch::new(MAX_ENTRY_BYTES);
        changes.push((Table::Records, &[1; 4], Some(&vec![7; MAX_ENTRY_BYTES - 12])));
        let largest =
            JournalEntry { checkpoint: 1, base: Some(1), number: 0, uuid, batch: changes };
        let largest = largest.encode().unwrap();
        assert_eq!(largest.len(), HEADER_BYTES + MAX_ENTRY_BYTES);
        while journal.has_room() {
            journal.append(&largest).unwrap();
        }
        assert_eq!(dir.path().join(JOURNAL_FILE).metadata().unwrap().len(), LENGTH as u64);
    }
}

//! The journal: changes that are answered before they are in LMDB's file.
//!
//! LMDB writes every page of a change to another place and syncs twice; the changes themselves are a
//! few hundred bytes. So the writer thread appends the changes of a batch to this file, with one
//! sync, and answers. From then on they are [`recent`](crate::store::journal::overlay): every read looks there too.
//! After some of them, or a moment without any, a **checkpoint** writes what is recent to LMDB's file
//! in one transaction, and the journal begins anew.
//!
//! - [`layout`]: the sizes of the file and its entries
//! - [`header`]: the first sector, which names the store and the checkpoint
//! - [`entry`]: the bytes of an entry
//! - here: the file, opened to be written; [`replay`]: what is read of it
//!
//! LMDB's file is always whole in the state of its last checkpoint. It holds the number of that
//! checkpoint, C, and the number that the journal's header had when the checkpoint was made, J
//! ([`LastCheckpoint`](crate::store::schema::checkpoint_id::LastCheckpoint)). So a journal is right if its header names C, and then its entries count; or
//! J, and then LMDB's file has all of them. Any other header, a missing one, and a file that is
//! shorter than [`LENGTH`] are damage. Where LMDB's file has no J, it needs no journal: it is new, or a
//! copy, or was closed in order.
//!
//! **Invariant.** LMDB commits nothing while the header on disk is in doubt, and an entry is written
//! only below a header that names its checkpoint.
//!
//! The file has its full length from the start, so that a write to it changes no table of the file
//! system. An entry begins a sector of its own: a disk writes sectors wholly or not at all.

pub mod entry;
pub mod header;
pub mod layout;
pub mod overlay;
pub mod replay;

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

/// The file, open to be written.
#[derive(Debug)]
pub struct Journal {
    /// Every write to it is synced when it returns.
    file: File,
    /// Where the next entry goes.
    end: usize,
    /// The checkpoint that the header on disk names; `None` while a write of it is in doubt.
    checkpoint: Option<u64>,
}

impl Journal {
    /// Opens the file in the folder `root`, creating it if need be, to append to what was replayed
    /// from it. The file's content is on disk when this returns; its name is not: see
    /// `dir::root`.
    pub fn open(root: &Path, header: &Header, replay: &Replay) -> io::Result<Self> {
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
        // What was replayed may be in the kernel's memory only: its process was killed in the middle
        // of its write, or the write failed. An entry behind it must not be lost with it.
        journal.file.write_all_at(replay.bytes(), SECTOR as u64)?;
        journal.begin(header)?;
        journal.end = SECTOR.saturating_add(replay.bytes().len()).next_multiple_of(SECTOR);
        Ok(journal)
    }

    /// The checkpoint that the header on disk names; `None` while a write of it is in doubt.
    pub fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// Begins anew, without entries, after the checkpoint that the header names.
    pub fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.checkpoint = None;
        self.end = SECTOR;
        let bytes = header.encode().ok_or_else(|| io::Error::other("the store's UUID is none"))?;
        self.file.write_all_at(&bytes, 0)?;
        self.checkpoint = Some(header.checkpoint);
        Ok(())
    }

    /// Whether any entry finds room.
    pub fn has_room(&self) -> bool {
        self.end.saturating_add(HEADER_BYTES + MAX_ENTRY_BYTES) <= LENGTH
    }

    /// Writes an entry, which is on disk when this returns.
    pub fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        self.file.write_all_at(entry, self.end as u64)?;
        self.end = self.end.saturating_add(entry.len()).next_multiple_of(SECTOR);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::entry::{Entry, WriteBatch};
    use super::*;
    use crate::store::schema::table::Table;

    #[test]
    fn any_entry_has_room_while_there_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = "u".repeat(entry::UUID);
        let header = Header { checkpoint: 1, uuid: uuid.clone() };
        let mut journal = Journal::open(dir.path(), &header, &Replay::default()).unwrap();
        let mut changes = WriteBatch::new(MAX_ENTRY_BYTES);
        changes.push((Table::Records, &[1; 4], Some(&vec![7; MAX_ENTRY_BYTES - 12])));
        let largest = Entry { checkpoint: 1, base: Some(1), number: 0, uuid, batch: changes };
        let largest = largest.encode().unwrap();
        assert_eq!(largest.len(), HEADER_BYTES + MAX_ENTRY_BYTES);
        while journal.has_room() {
            journal.append(&largest).unwrap();
        }
        assert_eq!(dir.path().join(JOURNAL_FILE).metadata().unwrap().len(), LENGTH as u64);
    }
}

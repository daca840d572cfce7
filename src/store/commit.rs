//! How what a batch changed gets on disk, and then into LMDB's file.
//!
//! On disk by the [journal], as a rule; what is too large for an entry goes to LMDB's file at once.
//! Either way it is on disk when [`Committer::commit`] answers, and only then does anybody see it.
//!
//! **What fails.** An entry that could not be written may be on the disk all the same. A checkpoint
//! makes it mean nothing, and so one is made before the next entry is. A checkpoint that LMDB aborts
//! has changed nothing: what is recent is still in the journal. One of which LMDB itself does not
//! know whether it was made ends the use of the environment; opening it again tells.

use std::fmt;
use std::io;
use std::path::Path;

use heed::{Env, WithoutTls};

use super::failure;
use super::journal::entry::{Changes, Entry};
use super::journal::{self, Journal};
use super::recent::Recent;
use super::root::Root;
use super::schema::{self, Tables};
use super::shown::Shown;
use crate::model::{Error, Result};

/// When so many keys are recent, a checkpoint is due: more would make it longer, and what it writes
/// hardly less often.
const MOST_RECENT: usize = 400;

/// Commits for one opening of an environment, on the writing thread.
pub(super) struct Committer {
    /// There is none when it could not be made: the disk was full.
    journal: Option<Journal>,
    /// An entry may be in the journal that must not count.
    doubt: bool,
    /// The last checkpoint.
    checkpoint: u64,
    /// How many entries there are since.
    entries: u32,
    uuid: String,
}

/// Why something was not committed.
pub(super) enum Failure {
    /// Nothing is left of it. A sentence about the journal, or what LMDB says.
    Aborted(Error),
    /// The same, from LMDB.
    Lmdb(heed::Error),
    /// What the disk has of it is not known.
    Unknown(String),
    /// The same, and the environment must be opened again.
    Broken(String),
    /// Nothing of it was written, and the environment must be opened again.
    NotTried(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted(error) => error.fmt(f),
            Self::Lmdb(error) => error.fmt(f),
            Self::Unknown(why) | Self::Broken(why) | Self::NotTried(why) => f.write_str(why),
        }
    }
}

impl Committer {
    /// Finds what is recent in the folder's journal, of an environment that was opened there.
    pub fn open(
        root: &Root,
        env: &Env<WithoutTls>,
        tables: &Tables,
        uuid: &str,
    ) -> Result<(Self, Shown)> {
        let txn = env.read_txn().map_err(|e| failure("reading the store", &e))?;
        let checkpoint = schema::checkpoint(&txn, tables)?;
        let found = journal::read(root.path(), uuid, checkpoint)?;
        if found.gap {
            return Err(gap(root.path()));
        }
        let path = root.path().join(journal::FILE);
        let journal = match Journal::open(root.path(), &found) {
            Ok(journal) => Some(journal),
            Err(e) if e.kind() == io::ErrorKind::StorageFull && found.changes.is_empty() => {
                log::warn!("{} cannot be made: {e}; changes take longer", path.display());
                None
            }
            Err(e) => return Err(Error::Internal(format!("opening {}: {e}", path.display()))),
        };
        if !found.changes.is_empty() {
            log::info!("{} commits are in the journal only", found.changes.len());
        }
        let shown = Shown::new(txn.id() as u64, Recent::of(&found.changes));
        let entries = found.changes.len().try_into().unwrap_or(u32::MAX);
        Ok((Self { journal, doubt: false, checkpoint, entries, uuid: uuid.to_owned() }, shown))
    }

    /// Commits `changes`, which lead to `recent`.
    pub fn commit(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        shown: &Shown,
        (recent, changes): (Recent, Changes),
    ) -> Result<(), Failure> {
        if self.doubt {
            let cleared = self.checkpoint(env, tables, shown, shown.recent());
            cleared.map_err(|failed| match failed {
                Failure::Broken(why) => Failure::NotTried(why),
                failed => failed,
            })?;
        }
        let (checkpoint, number, uuid) = (self.checkpoint, self.entries, self.uuid.clone());
        let entry = Entry { checkpoint, number, uuid, changes }.encode();
        let (Some(entry), Some(journal)) = (entry, self.journal.as_mut().filter(|j| j.has_room()))
        else {
            return self.checkpoint(env, tables, shown, recent);
        };
        if let Err(e) = journal.append(&entry) {
            self.doubt = true;
            return Err(match self.checkpoint(env, tables, shown, shown.recent()) {
                Ok(()) if e.kind() == io::ErrorKind::StorageFull => Failure::Aborted(
                    Error::ResourceExhausted("the disk is full; nothing was written".into()),
                ),
                Ok(()) => Failure::Aborted(Error::Internal(format!(
                    "writing the journal: {e}; nothing was written"
                ))),
                Err(Failure::Broken(also)) => {
                    Failure::Broken(format!("writing the journal: {e}; {also}"))
                }
                Err(also) => {
                    Failure::Unknown(format!("writing the journal: {e}; a checkpoint: {also}"))
                }
            });
        }
        self.entries = self.entries.saturating_add(1);
        shown.show(recent);
        Ok(())
    }

    /// Leaves nothing in the journal that is in LMDB's file, so that what is there is not.
    pub fn end(&mut self, shown: &Shown) {
        if let Some(journal) = &mut self.journal
            && shown.recent().is_empty()
            && let Err(e) = journal.clear()
        {
            // It means nothing after the checkpoint.
            log::debug!("clearing the journal: {e}");
        }
    }

    /// Whether there is something for a checkpoint to do.
    pub fn has_work(&self, shown: &Shown) -> bool {
        self.doubt || !shown.recent().is_empty()
    }

    /// Whether a checkpoint is due before the next change.
    pub fn is_due(&self, shown: &Shown) -> bool {
        let room = self.journal.as_ref().is_none_or(Journal::has_room);
        self.doubt || !room || shown.recent().len() >= MOST_RECENT
    }

    /// Writes `recent`, which has all that is shown, to LMDB's file.
    pub fn checkpoint(
        &mut self,
        env: &Env<WithoutTls>,
        tables: &Tables,
        shown: &Shown,
        recent: Recent,
    ) -> Result<(), Failure> {
        if recent.is_empty() && !self.doubt {
            return Ok(());
        }
        let next = schema::next_checkpoint();
        shown.checkpoint_begins(&recent);
        let written = write(env, tables, &recent, next);
        shown.checkpoint_ends(written.is_ok().then(|| env.info().last_txn_id as u64));
        match written {
            Ok(()) => {
                (self.checkpoint, self.entries, self.doubt) = (next, 0, false);
                self.journal.iter_mut().for_each(Journal::restart);
                Ok(())
            }
            // After a failed write of a meta page LMDB does not know, and refuses the environment.
            Err(e) if matches!(env.write_txn(), Err(heed::Error::Mdb(heed::MdbError::Panic))) => {
                Err(Failure::Broken(e.to_string()))
            }
            Err(e) => Err(Failure::Lmdb(e)),
        }
    }
}

/// The sentence about a journal that lacks entries.
pub(super) fn gap(root: &Path) -> Error {
    let root = root.display();
    Error::DataLoss(format!(
        "{root}/{} is damaged: entries are missing between others; nothing was changed; run \
         `lmdb-images recover --root {root}` to save what can be saved, or `lmdb-images restore --root \
         {root} --force FILE` to go back to a backup",
        journal::FILE
    ))
}

/// Makes the changes in LMDB, in one transaction, as a checkpoint.
pub(super) fn write(
    env: &Env<WithoutTls>,
    tables: &Tables,
    recent: &Recent,
    checkpoint: u64,
) -> heed::Result<()> {
    let mut txn = env.write_txn()?;
    for (table, key, value) in recent.all() {
        match value {
            Some(value) => tables.of(table).put(&mut txn, key, value)?,
            None => drop(tables.of(table).delete(&mut txn, key)?),
        }
    }
    schema::put_checkpoint(&mut txn, tables, checkpoint)?;
    txn.commit()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::root::DATA_FILE;
    use super::super::{Kind, Reader, Records, Snapshot, Store};
    use super::*;
    use crate::model::Namespace;

    fn namespace() -> Namespace {
        Namespace::parse("n").unwrap()
    }

    fn put(store: &Store, name: &str, size: usize) {
        let name = name.to_owned();
        let work = move |c: &mut super::super::Change<'_>| {
            c.put(&namespace(), Kind::Lease, &name, &vec![7; size], None)
        };
        store.writer().write_blocking(work).unwrap();
    }

    fn names(snapshot: &Snapshot<'_>) -> Result<Vec<String>> {
        snapshot.walk(&namespace(), Kind::Lease)?.map(|entry| Ok(entry?.shown_name())).collect()
    }

    /// What is on the disk now, as a store of its own.
    fn crashed(store: &Store) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in [DATA_FILE, journal::FILE] {
            fs::copy(store.root().join(file), dir.path().join(file)).unwrap();
        }
        dir
    }

    /// A store that makes no checkpoint by itself for a while.
    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn checkpoint(store: &Store) {
        store.checkpoint().unwrap();
    }

    #[test]
    fn what_was_answered_is_there_after_a_crash_for_all_who_open_the_store() {
        let (_dir, store) = store();
        checkpoint(&store);
        for (name, then) in [("a", false), ("b", true), ("c", false), ("d", false)] {
            put(&store, name, 10);
            if then {
                checkpoint(&store);
            }
            let all: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|n| *n <= name).collect();
            let crash = crashed(&store);
            assert_eq!(Reader::open(crash.path()).unwrap().read(names).unwrap(), all);
            for _ in 0..2 {
                assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), all);
            }
            assert_eq!(Reader::open(crash.path()).unwrap().read(names).unwrap(), all);
        }
    }

    #[test]
    fn a_journal_goes_on_where_the_process_before_ended() {
        let (_dir, store) = store();
        put(&store, "a", 10);
        let crash = crashed(&store);
        let next = Store::open(crash.path()).unwrap();
        put(&next, "b", 10);
        let again = crashed(&next);
        assert_eq!(Store::open(again.path()).unwrap().read(names).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_change_that_is_too_large_for_the_journal_is_in_the_file_at_once() {
        let (_dir, store) = store();
        put(&store, "a", 10);
        put(&store, "large", journal::MOST);
        assert!(store.environment.get().unwrap().shown.recent().is_empty());
        put(&store, "z", 10);
        let crash = crashed(&store);
        assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), ["a", "large", "z"]);
        fs::remove_file(crash.path().join(journal::FILE)).unwrap();
        assert_eq!(Store::open(crash.path()).unwrap().read(names).unwrap(), ["a", "large", "z"]);
    }

    #[test]
    fn a_journal_of_another_checkpoint_or_of_another_store_means_nothing() {
        let ((_dir, store), (_other_dir, other)) = (store(), store());
        checkpoint(&store);
        put(&store, "a", 10);
        let old = crashed(&store);
        checkpoint(&store);
        put(&store, "b", 10);
        put(&other, "c", 10);
        for from in [&store, &other] {
            fs::copy(from.root().join(journal::FILE), old.path().join(journal::FILE)).unwrap();
            let found = Reader::open(old.path()).unwrap().read(names).unwrap();
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn a_journal_that_lacks_entries_is_refused() {
        let (_dir, store) = store();
        put(&store, "a", 10);
        put(&store, "b", 10);
        let crash = crashed(&store);
        let file = crash.path().join(journal::FILE);
        let mut bytes = fs::read(&file).unwrap();
        bytes[70] ^= 1;
        fs::write(&file, bytes).unwrap();
        for refused in [
            Store::open(crash.path()).map(drop).unwrap_err(),
            Reader::open(crash.path()).map(drop).unwrap_err(),
        ] {
            assert!(matches!(&refused, Error::DataLoss(m) if m.contains("recover")), "{refused}");
        }
    }

    #[test]
    fn a_copy_has_what_is_recent() {
        let (_dir, store) = store();
        put(&store, "a", 10);
        checkpoint(&store);
        put(&store, "b", 10);
        let copy = tempfile::tempdir().unwrap();
        let file = copy.path().join(DATA_FILE);
        fs::write(&file, "").unwrap();
        let crash = crashed(&store);
        Reader::open(crash.path()).unwrap().copy_to(&file).unwrap();
        assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1);
        assert_eq!(Store::open(copy.path()).unwrap().read(names).unwrap(), ["a", "b"]);
    }
}

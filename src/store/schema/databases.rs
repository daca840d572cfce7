//! What lies where.
//!
//! ```text
//! data.mdb
//! ├── meta                              facts about the environment
//! │   ├── schema                        → version of this schema, u32 little-endian
//! │   ├── checkpoint                    → number of the last one, any u64, little-endian
//! │   ├── journal                       → the checkpoint that the journal's header named then, the
//! │   │                                   same way; absent where no journal is needed: see `journal`
//! │   └── uuid                          → what tells this store from others, as text
//! ├── records                           containerd's bolt path, flattened; values as in `value`
//! │   ├── v1/<namespace>                → Namespace: its labels; exists for every namespace
//! │   ├── v1/<namespace>/images/<name>  → Image, with containerd's fields only
//! │   └── v1/<namespace>/leases/<id>    → StoredLease: a lease and its resources
//! ├── index                             which images have a digest or a label: see `indexes`
//! │   └── <what, and name>              → nothing
//! ├── expiring                          records with the label containerd.io/gc.expire
//! │   └── <key of the record>           → the value of the label
//! └── aside                             images that a containerd no longer had after a gap
//!     └── <key of the record>           → the record as it was, the latest that went so
//! ```
//!
//! Keys are bytes in LMDB's order. A namespace has no slash in its name, so a record of one is
//! never inside another.
//!
//! **Long names.** LMDB takes keys of 511 bytes, containerd names of any length. A name of more
//! than [`NAME_HEAD`] bytes is keyed by its first `NAME_HEAD` bytes, the byte `0xff` and the
//! SHA-256 of the whole name; the name itself is in the record. `0xff` is in no UTF-8 text, so the
//! two forms never meet, and all long names with one head lie side by side, behind the short name
//! that is the head itself: sorting each such run by name gives the byte order of all names
//! (`records` does).
//!
//! **Rule of change.** Another layout is another version. `migrate` brings older ones to this one, in
//! the transaction that writes the new number; newer ones are refused. A change log will be a database
//! of its own, written in the transaction of the change.
//!
//! | version | brought |
//! |---|---|
//! | 1 | records, expiring, aside |
//! | 2 | index |
//! | 3 | checkpoint: the journal may have changes that are not here |
//! | 4 | journal: a journal that is missing or of another store is noticed |

use std::path::Path;

use heed::types::{Bytes, Str};
use heed::{CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls};
use sha2::{Digest, Sha256};

use crate::model::go::text::lossy;
use crate::model::{Error, Namespace, Result};
use crate::store::error::lmdb_error;
use crate::store::journal;
use crate::store::journal::Expected;
use crate::store::schema::migrate;
use crate::store::schema::table::Table;

/// The version this program writes and reads.
pub const VERSION: u32 = 4;

/// How many databases the environment may hold; more than there are, for versions to come.
pub const DATABASES: u32 = 8;

/// So many bytes of a long name stand in its key. With the longest namespace, the marker and the
/// hash, a key has 504 of LMDB's 511 bytes.
pub const NAME_HEAD: usize = 384;

/// Between the head of a long name and its hash.
pub const LONG_MARKER: u8 = 0xff;

const SCHEMA: &str = "schema";
const UUID: &str = "uuid";
const CHECKPOINT: &str = "checkpoint";
const JOURNAL: &str = "journal";

/// What LMDB's file says about the last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCheckpoint {
    /// Its number.
    pub id: u64,
    /// The checkpoint that the journal's header named when this one was made; `None` if the file needs
    /// no journal.
    pub journal: Option<u64>,
}

/// The databases of an open environment.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Facts about the environment.
    pub(crate) meta: Database<'static, Str, Bytes>,
    /// Everything containerd's bolt file would hold, by flattened path.
    pub(crate) records: Database<'static, Bytes, Bytes>,
    /// Which images have a digest or a label.
    pub(crate) index: Database<'static, Bytes, Bytes>,
    /// When records may be collected, by the key of the record.
    pub(crate) expiring: Database<'static, Bytes, Bytes>,
    /// What was set aside instead of being deleted.
    pub(crate) aside: Database<'static, Bytes, Bytes>,
}

impl Tables {
    /// All databases, by name.
    pub(crate) fn all(&self) -> [(&'static str, Database<'static, Bytes, Bytes>); 5] {
        [
            ("meta", self.meta.remap_types()),
            ("records", self.records),
            ("index", self.index),
            ("expiring", self.expiring),
            ("aside", self.aside),
        ]
    }

    /// One of those that hold records, or what is kept beside them.
    pub(crate) fn get(&self, table: Table) -> Database<'static, Bytes, Bytes> {
        match table {
            Table::Records => self.records,
            Table::Index => self.index,
            Table::Expiring => self.expiring,
            Table::SetAside => self.aside,
        }
    }
}

/// The kinds of records that a namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Image`
    Image,
    /// `StoredLease`
    Lease,
}

impl Kind {
    /// How its records are called in keys.
    pub fn path_segment(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Lease => "leases",
        }
    }

    /// How one of them is called in sentences.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Lease => "lease",
        }
    }
}

/// Opens the databases, creating them in an empty environment and bringing an older schema to this
/// one; a newer schema is refused. Gives the store's UUID too.
pub fn open(env: &Env<WithoutTls>, root: &Path) -> Result<(Tables, String)> {
    let told = |e: heed::Error| lmdb_error("opening the databases", &e);
    let txn = env.write_txn().map_err(told)?;
    let mut uuid = uuid::Uuid::new_v4().to_string();
    let mut refused = None;
    let opened = env
        .create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            let mut open = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let records = open("records")?;
            let index = open("index")?;
            let (expiring, aside) = (open("expiring")?, open("aside")?);
            let found = meta.get(txn, SCHEMA)?.map(version);
            if found.is_some_and(|found| found > VERSION) {
                return heed::Result::Ok(CommitOrAbort::Abort(found));
            }
            match meta.get(txn, UUID)?.and_then(|known| std::str::from_utf8(known).ok()) {
                Some(known) => uuid = known.to_owned(),
                None => meta.put(txn, UUID, uuid.as_bytes())?,
            }
            if found != Some(VERSION) {
                if let Some(found) = found {
                    let last = number(meta.get(txn, CHECKPOINT)?).unwrap_or_default();
                    // The journal's changes follow the checkpoint that this transaction replaces.
                    match journal::replay::read_v1(root, &uuid, last) {
                        Ok(replay) => {
                            let tables = [records, index, expiring, aside];
                            migrate::from(found, txn, tables, &replay.batches)?;
                        }
                        Err(why) => {
                            refused = Some(why);
                            return Ok(CommitOrAbort::Abort(Some(found)));
                        }
                    }
                }
                meta.put(txn, SCHEMA, &VERSION.to_le_bytes())?;
                meta.put(txn, CHECKPOINT, &next_checkpoint().to_le_bytes())?;
            }
            Ok(CommitOrAbort::Commit((meta, records, index, expiring, aside)))
        })
        .map_err(told)?;
    match opened {
        CommitOrAbort::Commit((meta, records, index, expiring, aside)) => {
            Ok((Tables { meta, records, index, expiring, aside }, uuid))
        }
        CommitOrAbort::Abort(found) => Err(refused.unwrap_or_else(|| other_version(root, found))),
    }
}

/// Opens the databases of an environment that is only read, which must have this schema. Gives the
/// store's UUID too.
pub fn open_to_read(env: &Env<WithoutTls>, root: &Path) -> Result<(Tables, String)> {
    let told = |e: heed::Error| lmdb_error("opening the databases", &e);
    let txn = env.read_txn().map_err(told)?;
    let mut uuid = String::new();
    let opened = env
        .open_databases_and_commit(txn, |opener, txn| {
            let meta = opener.open_database::<Str, Bytes>(txn, Some("meta"))?;
            let found = match &meta {
                Some(meta) => meta.get(txn, SCHEMA)?.map(version),
                None => None,
            };
            let open = |name| opener.open_database::<Bytes, Bytes>(txn, Some(name));
            if let Some(known) = meta.as_ref().map(|meta| meta.get(txn, UUID)).transpose()? {
                uuid = lossy(known.unwrap_or_default()).into_owned();
            }
            let databases =
                (meta, open("records")?, open("index")?, open("expiring")?, open("aside")?);
            heed::Result::Ok(match databases {
                (Some(meta), Some(records), Some(index), Some(expiring), Some(aside))
                    if found == Some(VERSION) =>
                {
                    CommitOrAbort::Commit((meta, records, index, expiring, aside))
                }
                _ => CommitOrAbort::Abort(found),
            })
        })
        .map_err(told)?;
    match opened {
        CommitOrAbort::Commit((meta, records, index, expiring, aside)) => {
            Ok((Tables { meta, records, index, expiring, aside }, uuid))
        }
        CommitOrAbort::Abort(found) => Err(other_version(root, found)),
    }
}

/// What a state says about the last checkpoint.
pub fn last_checkpoint(txn: &RoTxn<'_>, tables: &Tables) -> Result<LastCheckpoint> {
    let told = |e: heed::Error| lmdb_error("reading the store", &e);
    let id = number(tables.meta.get(txn, CHECKPOINT).map_err(told)?).unwrap_or_default();
    let journal = number(tables.meta.get(txn, JOURNAL).map_err(told)?);
    Ok(LastCheckpoint { id, journal })
}

/// The number that `meta` holds, if it is one.
fn number(stored: Option<&[u8]>) -> Option<u64> {
    stored.and_then(|stored| stored.try_into().ok()).map(u64::from_le_bytes)
}

/// A number for the next checkpoint. Nobody can guess it, so that a client's label which looks like an
/// entry of the journal never passes for one.
pub fn next_checkpoint() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// Writes what a transaction says about the checkpoint that it makes.
pub fn put_checkpoint(
    txn: &mut RwTxn<'_>,
    tables: &Tables,
    checkpoint: LastCheckpoint,
) -> heed::Result<()> {
    tables.meta.put(txn, CHECKPOINT, &checkpoint.id.to_le_bytes())?;
    match checkpoint.journal {
        Some(named) => tables.meta.put(txn, JOURNAL, &named.to_le_bytes()),
        None => tables.meta.delete(txn, JOURNAL).map(drop),
    }
}

/// What the database `meta` of a damaged file says, as far as it was found: its entries by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The store's UUID.
    pub uuid: Option<String>,
    /// The number of the last checkpoint.
    pub checkpoint: Option<u64>,
    /// The checkpoint that the journal's header named then.
    pub journal: Option<u64>,
}

impl Facts {
    /// Takes an entry of the database.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        if name == UUID.as_bytes() {
            self.uuid = std::str::from_utf8(value).ok().map(str::to_owned);
        } else if name == CHECKPOINT.as_bytes() {
            self.checkpoint = number(Some(value));
        } else if name == JOURNAL.as_bytes() {
            self.journal = number(Some(value));
        }
    }

    /// What the file says about its journal, if that is known.
    pub fn expected(&self) -> Option<Expected> {
        let last = LastCheckpoint { id: self.checkpoint?, journal: self.journal };
        Some(Expected { uuid: self.uuid.clone()?, last })
    }
}

/// A number that cannot be read is one of a version to come.
fn version(stored: &[u8]) -> u32 {
    <[u8; 4]>::try_from(stored).map_or(u32::MAX, u32::from_le_bytes)
}

fn other_version(root: &Path, found: Option<u32>) -> Error {
    let root = root.display();
    Error::failed_precondition(match found {
        Some(found) if found > VERSION => format!(
            "the store in {root} has schema version {found}, this program knows {VERSION}: it was \
             written by a newer lmdb-images; start that one"
        ),
        Some(found) if found < VERSION => format!(
            "the store in {root} has schema version {found}, this program reads {VERSION}: start \
             this version of lmdb-images serve on it once, which brings the store up to date"
        ),
        _ => format!("the file in {root} is no store of lmdb-images: databases of it are missing"),
    })
}

/// The key of a namespace.
pub fn namespace_key(namespace: &Namespace) -> Vec<u8> {
    format!("v1/{namespace}").into_bytes()
}

/// What all keys of namespaces, and of what they hold, begin with.
pub const ROOT_PREFIX: &[u8] = b"v1/";

/// What the keys of all records of a kind in a namespace begin with.
pub fn prefix(namespace: &Namespace, kind: Kind) -> Vec<u8> {
    format!("v1/{namespace}/{}/", kind.path_segment()).into_bytes()
}

/// The key of a record.
pub fn key(namespace: &Namespace, kind: Kind, name: &str) -> Vec<u8> {
    let mut key = prefix(namespace, kind);
    match name.as_bytes().get(..NAME_HEAD) {
        Some(head) if name.len() > NAME_HEAD => {
            key.extend_from_slice(head);
            key.push(LONG_MARKER);
            key.extend_from_slice(&Sha256::digest(name));
        }
        _ => key.extend_from_slice(name.as_bytes()),
    }
    key
}

/// What the key of a record says: its namespace, and its kind if it is not the namespace itself.
/// `None` for what is no key of ours.
pub fn parse_key(key: &[u8]) -> Option<(Namespace, Option<Kind>)> {
    let path = key.strip_prefix(ROOT_PREFIX)?;
    let (namespace, rest) = match path.iter().position(|b| *b == b'/') {
        Some(slash) => path.split_at_checked(slash)?,
        None => (path, &[][..]),
    };
    let namespace = Namespace::parse(std::str::from_utf8(namespace).ok()?).ok()?;
    if rest.is_empty() {
        return Some((namespace, None));
    }
    let kind = [Kind::Image, Kind::Lease].into_iter().find(|kind| {
        rest.strip_prefix(b"/")
            .and_then(|rest| rest.strip_prefix(kind.path_segment().as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"/"))
    })?;
    Some((namespace, Some(kind)))
}

/// What of the beginning of a name stands in the keys of all names that begin so.
pub fn name_prefix(beginning: &[u8]) -> &[u8] {
    beginning.get(..NAME_HEAD).unwrap_or(beginning)
}

/// The namespace in the key of an image, and what stands for its name; `None` for other keys.
pub fn image_key(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = key.strip_prefix(ROOT_PREFIX)?;
    let (namespace, rest) = path.split_at_checked(path.iter().position(|b| *b == b'/')?)?;
    Some((namespace, rest.strip_prefix(b"/images/")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_longer_than_lmdb_takes() {
        let namespace = Namespace::parse(&"n".repeat(76)).unwrap();
        for length in [1, NAME_HEAD, NAME_HEAD + 1, 40_000] {
            assert!(key(&namespace, Kind::Image, &"x".repeat(length)).len() <= 511);
        }
    }

    #[test]
    fn a_name_as_long_as_the_head_is_kept_whole() {
        let namespace = Namespace::parse("n").unwrap();
        let head = "x".repeat(NAME_HEAD);
        assert!(key(&namespace, Kind::Image, &head).ends_with(head.as_bytes()));
        assert!(
            key(&namespace, Kind::Image, &head) < key(&namespace, Kind::Image, &format!("{head}a"))
        );
    }

    #[test]
    fn nobody_can_guess_the_number_of_a_checkpoint() {
        let mut seen = std::collections::BTreeSet::from([0]);
        for _ in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let store = crate::store::Store::open(dir.path()).unwrap();
            let namespace = Namespace::parse("n").unwrap();
            for name in ["a", "b"] {
                let put = {
                    let namespace = namespace.clone();
                    move |c: &mut crate::store::Transaction<'_>| {
                        c.put(&namespace, Kind::Lease, name, b"", None)
                    }
                };
                let last = store.read(|s| last_checkpoint(s.view.base().0, s.view.base().1));
                assert!(seen.insert(last.unwrap().id), "{seen:?}");
                store.writer().write_blocking(put).unwrap();
                store.checkpoint().unwrap();
            }
        }
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(crate::store::Store::open(dir.path()).unwrap());
        let open_env = || crate::store::lmdb::open::map(dir.path()).unwrap();
        let set = |version: u32| {
            let env = open_env();
            let txn = env.write_txn().unwrap();
            env.create_databases_and_commit(txn, |opener, txn| {
                let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
                meta.put(txn, SCHEMA, &version.to_le_bytes())?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(()))
            })
            .unwrap();
        };
        set(VERSION + 1);
        for _ in 0..2 {
            let refused = crate::store::Store::open(dir.path()).unwrap_err();
            assert!(refused.message().contains("newer lmdb-images"), "{refused}");
        }
        set(VERSION);
        crate::store::Store::open(dir.path()).unwrap();
    }
}

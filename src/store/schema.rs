//! What lies where.
//!
//! ```text
//! data.mdb
//! ├── meta                              facts about the environment
//! │   ├── schema                        → version of this schema, u32 little-endian
//! │   └── uuid                          → what tells this store from others, as text
//! ├── records                           containerd's bolt path, flattened; values as in `value`
//! │   ├── v1/<namespace>                → Namespace: its labels; exists for every namespace
//! │   ├── v1/<namespace>/images/<name>  → Image, with containerd's fields only
//! │   └── v1/<namespace>/leases/<id>    → StoredLease: a lease and its resources
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
//! **Rule of change.** Another layout is another version. There is one so far; code that brings
//! older ones to a newer, in the transaction that writes the new number, comes with the second. A change log will be a database of its own, written in the transaction
//! of the change.

use std::path::Path;

use heed::types::{Bytes, Str};
use heed::{CommitOrAbort, Database, Env, WithoutTls};
use sha2::{Digest, Sha256};

use super::failure;
use crate::model::{Error, Namespace, Result};

/// The version this program writes and reads.
pub const VERSION: u32 = 1;

/// How many databases the environment may hold; more than there are, for versions to come.
pub const DATABASES: u32 = 8;

/// So many bytes of a long name stand in its key. With the longest namespace, the marker and the
/// hash, a key has 504 of LMDB's 511 bytes.
pub const NAME_HEAD: usize = 384;

/// Between the head of a long name and its hash.
pub const LONG_MARKER: u8 = 0xff;

const SCHEMA: &str = "schema";
const UUID: &str = "uuid";

/// The databases of an open environment.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Everything containerd's bolt file would hold, by flattened path.
    pub(super) records: Database<'static, Bytes, Bytes>,
    /// When records may be collected, by the key of the record.
    pub(super) expiring: Database<'static, Bytes, Bytes>,
    /// What was set aside instead of being deleted.
    pub(super) aside: Database<'static, Bytes, Bytes>,
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
    pub fn folder(self) -> &'static str {
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

/// Opens the databases, creating them in an empty environment; another schema is refused. Gives the store's UUID too.
pub fn open(env: &Env<WithoutTls>, root: &Path) -> Result<(Tables, String)> {
    let told = |e: heed::Error| failure("opening the databases", &e);
    let txn = env.write_txn().map_err(told)?;
    let mut uuid = uuid::Uuid::new_v4().to_string();
    let opened = env
        .create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            let records = opener.create_database::<Bytes, Bytes>(txn, Some("records"))?;
            let expiring = opener.create_database::<Bytes, Bytes>(txn, Some("expiring"))?;
            let aside = opener.create_database::<Bytes, Bytes>(txn, Some("aside"))?;
            let found = match meta.get(txn, SCHEMA)? {
                Some(bytes) => <[u8; 4]>::try_from(bytes).map_or(u32::MAX, u32::from_le_bytes),
                None => {
                    meta.put(txn, SCHEMA, &VERSION.to_le_bytes())?;
                    VERSION
                }
            };
            if found == VERSION {
                match meta.get(txn, UUID)?.and_then(|known| std::str::from_utf8(known).ok()) {
                    Some(known) => uuid = known.to_owned(),
                    None => meta.put(txn, UUID, uuid.as_bytes())?,
                }
            }
            Ok(match found {
                VERSION => CommitOrAbort::Commit((records, expiring, aside)),
                other => CommitOrAbort::Abort(other),
            })
        })
        .map_err(told)?;
    match opened {
        CommitOrAbort::Commit((records, expiring, aside)) => {
            Ok((Tables { records, expiring, aside }, uuid))
        }
        CommitOrAbort::Abort(version) => Err(Error::failed_precondition(format_args!(
            "the store in {} has schema version {version}, this program knows {VERSION}: it was \
             written by a newer lmdb-images; start that one",
            root.display()
        ))),
    }
}

/// Opens the databases of an environment that is only read.
pub fn open_to_read(env: &Env<WithoutTls>, root: &Path) -> Result<Tables> {
    let told = |e: heed::Error| failure("opening the databases", &e);
    let txn = env.read_txn().map_err(told)?;
    let opened = env
        .open_databases_and_commit(txn, |opener, txn| {
            let meta = opener.open_database::<Str, Bytes>(txn, Some("meta"))?;
            let version = match &meta {
                Some(meta) => meta.get(txn, SCHEMA)?,
                None => None,
            };
            let known = version == Some(&VERSION.to_le_bytes()[..]);
            let open = |name| opener.open_database::<Bytes, Bytes>(txn, Some(name));
            let databases = (open("records")?, open("expiring")?, open("aside")?);
            Ok(match databases {
                (Some(records), Some(expiring), Some(aside)) if known => {
                    CommitOrAbort::Commit((records, expiring, aside))
                }
                _ => CommitOrAbort::Abort(()),
            })
        })
        .map_err(told)?;
    match opened {
        CommitOrAbort::Commit((records, expiring, aside)) => {
            Ok(Tables { records, expiring, aside })
        }
        CommitOrAbort::Abort(()) => Err(Error::failed_precondition(format_args!(
            "the store in {} is not one of schema version {VERSION}: it was written by another \
             lmdb-images",
            root.display()
        ))),
    }
}

/// The key of a namespace.
pub fn namespace_key(namespace: &Namespace) -> Vec<u8> {
    format!("v1/{namespace}").into_bytes()
}

/// What all keys of namespaces, and of what they hold, begin with.
pub const ROOT_PREFIX: &[u8] = b"v1/";

/// What the keys of all records of a kind in a namespace begin with.
pub fn prefix(namespace: &Namespace, kind: Kind) -> Vec<u8> {
    format!("v1/{namespace}/{}/", kind.folder()).into_bytes()
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
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(super::super::Store::open(dir.path()).unwrap());
        let open_env = || super::super::map(dir.path()).unwrap();
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
            let refused = super::super::Store::open(dir.path()).unwrap_err();
            assert!(refused.message().contains("newer lmdb-images"), "{refused}");
        }
        set(VERSION);
        super::super::Store::open(dir.path()).unwrap();
    }
}

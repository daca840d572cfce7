//! What lies where.
//!
//! ```text
//! data.mdb
//! ├── meta                              facts about the environment
//! │   └── schema                        → version of this schema, u32 little-endian
//! └── records                           containerd's bolt path, flattened; values as in `value`
//!     ├── v1/<namespace>                → Namespace: its labels; exists for every namespace
//!     └── v1/<namespace>/images/<name>  → Image, with containerd's fields only
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
//! **Rule of change.** Another layout is another version, and `migrate` brings the older ones to it
//! in the transaction that writes the new number. Later keys under `v1/<namespace>/` must not
//! start with `images/`. A change log will be a database of its own, written in the transaction
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

/// The databases of an open environment.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Everything containerd's bolt file would hold, by flattened path.
    pub(super) records: Database<'static, Bytes, Bytes>,
}

/// Opens the databases, creating them in an empty environment; an older schema is migrated, a
/// newer one refused.
pub fn open(env: &Env<WithoutTls>, root: &Path) -> Result<Tables> {
    let told = |e: heed::Error| failure("opening the databases", &e);
    let txn = env.write_txn().map_err(told)?;
    let opened = env
        .create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            let records = opener.create_database::<Bytes, Bytes>(txn, Some("records"))?;
            let found = match meta.get(txn, SCHEMA)? {
                Some(bytes) => <[u8; 4]>::try_from(bytes).map_or(u32::MAX, u32::from_le_bytes),
                None => {
                    meta.put(txn, SCHEMA, &VERSION.to_le_bytes())?;
                    VERSION
                }
            };
            Ok(match found {
                VERSION => CommitOrAbort::Commit(records),
                other => CommitOrAbort::Abort(other),
            })
        })
        .map_err(told)?;
    match opened {
        CommitOrAbort::Commit(records) => Ok(Tables { records }),
        CommitOrAbort::Abort(version) => Err(Error::failed_precondition(format_args!(
            "the store in {} has schema version {version}, this program knows {VERSION}: it was \
             written by a newer lmdb-images; start that one",
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

/// What the keys of all images of a namespace begin with.
pub fn images_prefix(namespace: &Namespace) -> Vec<u8> {
    format!("v1/{namespace}/images/").into_bytes()
}

/// The key of an image.
pub fn image_key(namespace: &Namespace, name: &str) -> Vec<u8> {
    let mut key = images_prefix(namespace);
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
            assert!(image_key(&namespace, &"x".repeat(length)).len() <= 511);
        }
    }

    #[test]
    fn a_name_as_long_as_the_head_is_kept_whole() {
        let namespace = Namespace::parse("n").unwrap();
        let head = "x".repeat(NAME_HEAD);
        assert!(image_key(&namespace, &head).ends_with(head.as_bytes()));
        assert!(image_key(&namespace, &head) < image_key(&namespace, &format!("{head}a")));
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

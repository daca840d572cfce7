//! Opening the databases of an environment: creating them, checking the version of their schema and
//! migrating an older one.

use std::path::Path;

use go_compat::text::lossy;
use heed::types::{Bytes, Str};
use heed::{CommitOrAbort, Env, WithoutTls};

use super::checkpoint_id::{CHECKPOINT, UUID, next_checkpoint, number};
use super::log_meta::LogMeta;
use super::migrate;
use super::table::OwnedOp;
use super::tables::Tables;
use crate::model::{Error, Result};
use crate::store::error::lmdb_error;

/// The version this program writes and reads.
pub(crate) const VERSION: u32 = 5;

/// The most databases of the environment: more than this version has, for later versions.
pub(crate) const MAX_DATABASES: u32 = 8;

const SCHEMA: &str = "schema";

/// Opens the databases. Creates them in an empty environment, and migrates an older schema. `old_journal`
/// reads the writes that the journal of an older schema holds on top of a checkpoint, by the store's UUID
/// and the identifier of that checkpoint. Returns the store's UUID too.
///
/// # Errors
/// `FailedPrecondition` if the schema is newer.
pub(crate) fn open(
    env: &Env<WithoutTls>,
    root: &Path,
    old_journal: &dyn Fn(&str, u64) -> Result<Vec<OwnedOp>>,
) -> Result<(Tables, String)> {
    let to_error = |e: heed::Error| lmdb_error("opening the databases", &e);
    let txn = env.write_txn().map_err(to_error)?;
    let mut uuid = uuid::Uuid::new_v4().to_string();
    let mut refused = None;
    let opened = env
        .create_databases_and_commit(txn, |opener, txn| {
            let meta = opener.create_database::<Str, Bytes>(txn, Some("meta"))?;
            let mut open = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let records = open("records")?;
            let index = open("index")?;
            let (expiring, aside, log) = (open("expiring")?, open("aside")?, open("log")?);
            let found = meta.get(txn, SCHEMA)?.map(version);
            if found.is_some_and(|found| found > VERSION) {
                return heed::Result::Ok(CommitOrAbort::Abort(found));
            }
            match meta.get(txn, UUID)?.and_then(|known| std::str::from_utf8(known).ok()) {
                Some(known) => uuid = known.to_owned(),
                None => meta.put(txn, UUID, uuid.as_bytes())?,
            }
            if found != Some(VERSION) {
                if let Some(found) = found.filter(|found| *found < migrate::JOURNAL_AS_NOW) {
                    let last = number(meta.get(txn, CHECKPOINT)?).unwrap_or_default();
                    // The journal's changes follow the checkpoint that this transaction replaces.
                    match old_journal(&uuid, last) {
                        Ok(changes) => {
                            let tables = [records, index, expiring, aside];
                            migrate::from(found, txn, tables, &changes)?;
                        }
                        Err(why) => {
                            refused = Some(why);
                            return Ok(CommitOrAbort::Abort(Some(found)));
                        }
                    }
                }
                // The journal of a later version follows the checkpoint that is there.
                if found.is_none_or(|found| found < migrate::JOURNAL_AS_NOW) {
                    meta.put(txn, CHECKPOINT, &next_checkpoint().to_le_bytes())?;
                }
                // Version 5: the log, which begins here.
                LogMeta::new().write(txn, meta)?;
                meta.put(txn, SCHEMA, &VERSION.to_le_bytes())?;
                if let Some(found) = found {
                    log::info!("bringing the store from schema version {found} to {VERSION}");
                }
            }
            Ok(CommitOrAbort::Commit((meta, records, index, expiring, aside, log)))
        })
        .map_err(to_error)?;
    match opened {
        CommitOrAbort::Commit(all) => Ok((all.into(), uuid)),
        CommitOrAbort::Abort(found) => Err(refused.unwrap_or_else(|| other_version(root, found))),
    }
}

/// Opens the databases of an environment that is only read, which must have this schema. Gives the
/// store's UUID too.
pub(crate) fn open_to_read(env: &Env<WithoutTls>, root: &Path) -> Result<(Tables, String)> {
    let to_error = |e: heed::Error| lmdb_error("opening the databases", &e);
    let txn = env.read_txn().map_err(to_error)?;
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
            let records = (meta, open("records")?, open("index")?);
            let others = (open("expiring")?, open("aside")?, open("log")?);
            heed::Result::Ok(match (records, others) {
                (
                    (Some(meta), Some(records), Some(index)),
                    (Some(expiring), Some(aside), Some(log)),
                ) if found == Some(VERSION) => {
                    CommitOrAbort::Commit((meta, records, index, expiring, aside, log))
                }
                _ => CommitOrAbort::Abort(found),
            })
        })
        .map_err(to_error)?;
    match opened {
        CommitOrAbort::Commit(all) => Ok((all.into(), uuid)),
        CommitOrAbort::Abort(found) => Err(other_version(root, found)),
    }
}

/// Decodes a version. An undecodable version counts as newer.
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

#[cfg(test)]
mod tests {
    use super::*;

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

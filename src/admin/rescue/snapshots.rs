//! Whether a snapshotter's folder is older than containerd's database.
//!
//! containerd names snapshots by a counter in its database. A new database counts from one again. In the old
//! folder of a snapshotter the new names collide with the old ones: containerd fails with "parent
//! snapshot … does not exist", or its collector removes snapshots that it does not know. Both
//! databases are bolt files, which can be read while containerd writes them.

use std::collections::BTreeSet;
use std::path::Path;

use bbolt_read::{Bucket, Damage, LiveError, LiveReader, ReadAt, Snapshot, Value};

use crate::admin::file;

/// Snapshots that containerd's database does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownSnapshots {
    /// The number of such snapshots in the folder.
    pub(crate) count: usize,
    /// The key of one such snapshot.
    pub(crate) example: String,
}

/// Compares the snapshots in the folder of a snapshotter with those that containerd's database knows.
///
/// # Errors
/// A sentence, if a file cannot be read.
pub(crate) fn find_unknown(
    database: &Path,
    name: &str,
    folder: &Path,
) -> Result<Option<UnknownSnapshots>, String> {
    let file = folder.join("metadata.db");
    if !file.try_exists().map_err(|e| format!("{}: {e}", file.display()))? {
        // The snapshotter creates the file with the first snapshot, or keeps its records elsewhere.
        return Ok(None);
    }
    if !may_be_older(&file, database) {
        return Ok(None);
    }
    let in_folder = read(&file, in_snapshotter)?;
    let known = read(database, |snapshot| in_containerd(snapshot, name))?;
    let mut unknown = in_folder.difference(&known);
    let example = unknown.next().cloned();
    Ok(example.map(|example| UnknownSnapshots { count: 1 + unknown.count(), example }))
}

/// Returns false if the snapshotter's file was created after containerd's database. Names that containerd does
/// not know then belong to snapshots that wait for the collector.
fn may_be_older(file: &Path, database: &Path) -> bool {
    let created = |path: &Path| path.metadata().and_then(|found| found.created());
    match (created(file), created(database)) {
        (Ok(file), Ok(database)) => file < database,
        // Not every file system keeps the time.
        _ => true,
    }
}

fn read(
    path: &Path,
    names: impl Fn(&Snapshot<'_, std::fs::File>) -> Result<BTreeSet<String>, Damage>,
) -> Result<BTreeSet<String>, String> {
    let with_path = |e: LiveError| format!("{}: {e}", path.display());
    let file = file::open_to_read(path).map_err(|e| e.to_string())?;
    let reader = LiveReader::new(file).map_err(with_path)?;
    Ok(reader.read(|snapshot| names(snapshot)).map_err(with_path)?.value)
}

fn in_snapshotter<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
) -> Result<BTreeSet<String>, Damage> {
    let Some(snapshots) = snapshot.bucket(&[b"v1", b"snapshots"])? else {
        return Ok(BTreeSet::new());
    };
    let names = snapshot.entries(&snapshots).map(|entry| Ok(printable_name(&entry?.key)));
    names.collect()
}

/// containerd's names for the snapshots of a snapshotter, in all namespaces.
fn in_containerd<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    snapshotter: &str,
) -> Result<BTreeSet<String>, Damage> {
    let mut names = BTreeSet::new();
    let Some(namespaces) = snapshot.bucket(&[b"v1"])? else { return Ok(names) };
    for namespace in buckets(snapshot, &namespaces) {
        let path: &[&[u8]] = &[b"v1", &namespace?, b"snapshots", snapshotter.as_bytes()];
        let Some(snapshots) = snapshot.bucket(path)? else { continue };
        for entry in snapshot.entries(&snapshots) {
            let Value::Bucket(record) = entry?.value else { continue };
            if let Some(Value::Bytes(name)) = snapshot.get(&record, b"name")? {
                names.insert(printable_name(&name));
            }
        }
    }
    Ok(names)
}

fn buckets<'b, S: ReadAt + ?Sized>(
    snapshot: &'b Snapshot<'_, S>,
    bucket: &Bucket,
) -> impl Iterator<Item = Result<Vec<u8>, Damage>> + 'b {
    snapshot.entries(bucket).filter_map(|entry| match entry {
        Ok(entry) => matches!(entry.value, Value::Bucket(_)).then_some(Ok(entry.key)),
        Err(lost) => Some(Err(lost.damage)),
    })
}

fn printable_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

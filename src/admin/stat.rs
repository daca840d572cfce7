//! `lmdb-images stat`: how large a store is, what it holds, who reads it.

use std::path::Path;

use serde::Serialize;

use crate::model::{Namespace, Result};
use crate::store::dir::{filesystem, root};
use crate::store::lmdb::reader_table;
use crate::store::schema::databases;
use crate::store::{Kind, ReadOnlyStore, Records};

/// What is known of a store; the fields of its JSON, which docs/json.md promises.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    /// The folder.
    pub root: String,
    /// The type of the file system it lies on.
    pub filesystem: Option<String>,
    /// The process that owns the store, if one does: a daemon, or a command that writes.
    pub owner: Option<u32>,
    /// What tells this store from all others.
    pub uuid: String,
    /// The version of its schema.
    pub schema: u32,
    /// How many commits to LMDB's file there were: checkpoints, as a rule.
    pub commits: u64,
    /// Sizes.
    pub size: Size,
    /// What each namespace holds, by name.
    pub namespaces: Vec<Held>,
    /// What each of LMDB's databases takes.
    pub databases: Vec<Database>,
    /// The snapshots that other processes hold, the oldest first.
    pub readers: Vec<Holder>,
}

/// Sizes, in bytes where nothing else is said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Length of the data file.
    pub file: u64,
    /// What it takes of the disk.
    pub disk: u64,
    /// To what it can grow.
    pub map: u64,
    /// A page.
    pub page: u64,
    /// How many pages there are.
    pub pages: u64,
    /// How many of them are in use.
    pub used_pages: u64,
    /// How many are free to be used again, before the file grows.
    pub free_pages: u64,
    /// What compacting would give back.
    pub reclaimable: u64,
}

/// What a namespace holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its name.
    pub namespace: String,
    /// How many images.
    pub images: u64,
    /// How many leases.
    pub leases: u64,
    /// How many images are set aside: a containerd no longer had them after a gap.
    pub set_aside: u64,
}

/// What a database takes.
#[derive(Debug, Serialize)]
pub struct Database {
    /// Its name.
    pub name: &'static str,
    /// How many entries it has.
    pub entries: u64,
    /// How many pages they take.
    pub pages: u64,
}

/// A process that holds a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its program and first word, if that can be known.
    pub command: Option<String>,
    /// Whether it is there. The place of one that is gone is taken back by whoever opens the store.
    pub alive: bool,
    /// How many seconds ago it started: the snapshot is no older.
    pub started_seconds_ago: Option<u64>,
    /// The last commit that it sees.
    pub snapshot: u64,
    /// How many commits to LMDB's file came since. Only with some does it keep pages from being used again.
    pub behind: u64,
}

/// Looks at the store in `root`, in one state of it.
pub fn run(root: &Path) -> Result<Stat> {
    let store = ReadOnlyStore::open(root)?;
    let usage = store.usage()?;
    let namespaces = store.read(|snapshot| {
        let count = |name: &Namespace, kind| Ok(snapshot.scan(name, kind)?.count() as u64);
        let mut aside = snapshot.aside_by_namespace()?;
        let mut namespaces = Vec::new();
        for name in snapshot.namespaces()? {
            namespaces.push(Held {
                images: count(&name, Kind::Image)?,
                leases: count(&name, Kind::Lease)?,
                set_aside: aside.remove(name.as_str()).unwrap_or_default(),
                namespace: name.to_string(),
            });
        }
        // A namespace that went with all that it held.
        namespaces.extend(aside.into_iter().map(|(namespace, set_aside)| Held {
            namespace,
            images: 0,
            leases: 0,
            set_aside,
        }));
        namespaces.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Ok(namespaces)
    })?;
    Ok(Stat {
        root: root.display().to_string(),
        filesystem: filesystem::mount_type(root),
        owner: root::owner(root),
        uuid: store.uuid().to_owned(),
        schema: databases::VERSION,
        commits: usage.last_commit,
        size: Size {
            file: usage.file_bytes,
            disk: usage.disk_bytes,
            map: usage.map_bytes,
            page: usage.page_size,
            pages: usage.pages,
            used_pages: usage.used_pages,
            free_pages: usage.free_pages(),
            reclaimable: usage.free_pages() * usage.page_size,
        },
        namespaces,
        readers: holders(&store)?,
        databases: usage
            .databases
            .into_iter()
            .map(|d| Database { name: d.name, entries: d.entries, pages: d.pages })
            .collect(),
    })
}

fn holders(store: &ReadOnlyStore) -> Result<Vec<Holder>> {
    let last = store.last_commit();
    let held = store.readers()?;
    Ok(held
        .into_iter()
        .map(|held| Holder {
            process: held.process,
            command: reader_table::command_line(held.process),
            alive: held.alive,
            started_seconds_ago: reader_table::seconds_since_start(held.process),
            snapshot: held.snapshot,
            behind: last.saturating_sub(held.snapshot),
        })
        .collect())
}

//! `lmdb-images stat`: size, contents and readers of a store.

use std::path::Path;

use serde::Serialize;

use crate::model::{Error, Namespace, Result};
use crate::store::dir::{filesystem, root};
use crate::store::lmdb::reader_table;
use crate::store::schema::databases;
use crate::store::{Kind, ReadOnlyStore, Records};

/// Figures of a store. docs/json.md promises the fields of its JSON form to scripts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    /// Folder of the store.
    pub root: String,
    /// Type of the file system that the folder is on.
    pub(crate) filesystem: Option<String>,
    /// Pid of the process that has the store open for writing: a daemon or a command.
    pub owner: Option<u32>,
    /// UUID of the store.
    pub uuid: String,
    /// Version of the schema.
    pub schema: u32,
    /// Number of commits to LMDB's file: checkpoints, as a rule.
    pub commits: u64,
    /// Sizes.
    pub size: Size,
    /// The log of changes; `None` if it is off.
    pub log: Option<Log>,
    /// Contents of each namespace, ordered by name.
    pub namespaces: Vec<NamespaceUsage>,
    /// Size of each LMDB database.
    pub databases: Vec<DatabaseSize>,
    /// Snapshots that other processes hold, the oldest first.
    pub readers: Vec<Reader>,
}

/// Sizes in bytes, and numbers of pages.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Bytes: length of the data file.
    pub file: u64,
    /// Bytes: disk space that the file occupies.
    pub disk: u64,
    /// Bytes: limit to which the file can grow.
    pub map: u64,
    /// Bytes of one page.
    pub page: u64,
    /// Number of all pages.
    pub pages: u64,
    /// Number of pages in use.
    pub(crate) used_pages: u64,
    /// Number of free pages: LMDB reuses them before the file grows.
    pub(crate) free_pages: u64,
    /// Bytes that `compact` would free.
    pub(crate) reclaimable: u64,
}

/// The log of changes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// Epoch: sequence numbers of different epochs cannot be compared.
    pub epoch: String,
    /// Number of the oldest entry.
    pub first: u64,
    /// Number of the newest entry; 0 if there was none in this epoch.
    pub last: u64,
    /// Bytes: pages of the data file that the entries occupy.
    pub bytes: u64,
    /// Age of the oldest entry in seconds; `None` if there is none.
    pub(crate) oldest_seconds: Option<u64>,
}

/// Contents of a namespace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUsage {
    /// Name of the namespace.
    pub namespace: String,
    /// Number of images.
    pub images: u64,
    /// Number of leases.
    pub leases: u64,
    /// Number of images set aside: containerd no longer had them after a gap in its events.
    pub set_aside: u64,
}

/// Size of an LMDB database.
#[derive(Debug, Serialize)]
pub struct DatabaseSize {
    /// Name of the database.
    pub name: &'static str,
    /// Number of entries.
    pub entries: u64,
    /// Number of pages that the entries occupy.
    pub pages: u64,
}

/// A process that holds a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reader {
    /// Pid of the process.
    pub process: u32,
    /// Program and first argument of the process, if known.
    pub command: Option<String>,
    /// Whether the process is running. The next process that opens the store frees the slot of a dead
    /// one.
    pub alive: bool,
    /// Seconds since the process started: an upper bound for the age of the snapshot.
    pub(crate) started_seconds_ago: Option<u64>,
    /// Last commit in the snapshot.
    pub snapshot: u64,
    /// Number of commits to LMDB's file since the snapshot. A snapshot that is not behind keeps no
    /// free page from being reused.
    pub behind: u64,
}

/// Reads the figures of the store in `root` from one snapshot.
pub fn run(root: &Path) -> Result<Stat> {
    let store = ReadOnlyStore::open(root)?;
    let usage = store.usage()?;
    let namespaces = store.read(|snapshot| {
        let count =
            |name: &Namespace, kind| Ok::<_, Error>(snapshot.scan(name, kind)?.count() as u64);
        let mut aside = snapshot.aside_by_namespace()?;
        let mut namespaces = Vec::new();
        for name in snapshot.namespaces()? {
            namespaces.push(NamespaceUsage {
                images: count(&name, Kind::Image)?,
                leases: count(&name, Kind::Lease)?,
                set_aside: aside.remove(name.as_str()).unwrap_or_default(),
                namespace: name.to_string(),
            });
        }
        // Deleted namespaces of which images are still set aside.
        namespaces.extend(aside.into_iter().map(|(namespace, set_aside)| NamespaceUsage {
            namespace,
            images: 0,
            leases: 0,
            set_aside,
        }));
        namespaces.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Ok(namespaces)
    })?;
    let log = store.read(|snapshot| {
        let Some(head) = snapshot.log_head()? else { return Ok(None) };
        let (bytes, age) = snapshot.log_size()?;
        let oldest_seconds = age.map(|age| age.as_secs());
        let (epoch, first, last) = (head.epoch.to_string(), head.first, head.last);
        Ok(Some(Log { epoch, first, last, bytes, oldest_seconds }))
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
        log,
        namespaces,
        readers: list_readers(&store)?,
        databases: usage
            .databases
            .into_iter()
            .map(|d| DatabaseSize { name: d.name, entries: d.entries, pages: d.pages })
            .collect(),
    })
}

fn list_readers(store: &ReadOnlyStore) -> Result<Vec<Reader>> {
    let last = store.last_commit();
    let readers = store.readers()?;
    Ok(readers
        .into_iter()
        .map(|reader| Reader {
            process: reader.process,
            command: reader_table::command_line(reader.process),
            alive: reader.alive,
            started_seconds_ago: reader_table::seconds_since_start(reader.process),
            snapshot: reader.snapshot,
            behind: last.saturating_sub(reader.snapshot),
        })
        .collect())
}

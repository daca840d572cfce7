//! The size of a store, and the part of it that is in use.

use crate::store::dir::files::DATA_FILE;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use heed::{Env, WithoutTls};

use crate::model::{Context, Result};
use crate::store::error::lmdb_error;
use crate::store::read::view::View;
use crate::store::schema::table::Table;

/// Sizes of a store, in one state of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The number of pages of the file, including those that were never written.
    pub pages: u64,
    /// The number of pages with records, indexes, or the trees above them. The others are free, or list the free
    /// pages: a compacted copy does not have them.
    pub(crate) used_pages: u64,
    /// The length of the file in bytes.
    pub(crate) file_bytes: u64,
    /// The size of the file on the disk in bytes.
    pub(crate) disk_bytes: u64,
    /// The largest possible size of the file in bytes.
    pub(crate) map_bytes: u64,
    /// The number of the last commit.
    pub last_commit: u64,
    /// The use of each database.
    pub databases: Vec<DatabaseUsage>,
}

/// The size of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseUsage {
    /// The name, as in `schema`.
    pub name: &'static str,
    /// The number of its entries.
    pub entries: u64,
    /// The number of its pages.
    pub pages: u64,
}

impl Usage {
    /// The number of pages that are free, or list the free pages.
    pub(crate) fn free_pages(&self) -> u64 {
        self.pages.saturating_sub(self.used_pages)
    }

    pub(crate) fn measure(root: &Path, env: &Env<WithoutTls>, view: &View<'_>) -> Result<Self> {
        let (txn, tables) = view.base();
        const META_PAGES: u64 = 2;
        let to_error = |e: heed::Error| lmdb_error("measuring the store", &e);
        let (info, main) = (env.info(), env.unnamed_database_stat());
        let path = root.join(DATA_FILE);
        let file =
            std::fs::metadata(&path).or_internal(format_args!("looking at {}", path.display()))?;
        let pages_of = |stat: &heed::DatabaseStat| {
            (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64
        };
        let mut databases = Vec::new();
        for (name, database) in tables.all() {
            let stat = database.stat(txn).map_err(to_error)?;
            let entries = match Table::ALL.into_iter().find(|table| table.name() == name) {
                Some(table) => view.len(table)?,
                None => stat.entries as u64,
            };
            databases.push(DatabaseUsage { name, entries, pages: pages_of(&stat) });
        }
        let used: u64 = databases.iter().map(|database| database.pages).sum();
        Ok(Self {
            page_size: main.page_size.into(),
            pages: info.last_page_number as u64 + 1,
            used_pages: used + pages_of(&main) + META_PAGES,
            file_bytes: file.len(),
            // POSIX leaves the unit open; on Linux it is 512 bytes.
            disk_bytes: file.blocks() * 512,
            map_bytes: info.map_size as u64,
            last_commit: info.last_txn_id as u64,
            databases,
        })
    }
}

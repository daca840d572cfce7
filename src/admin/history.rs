//! `lmdb-images history`: the changes of a name or a digest, from the daemon, or from the files of the store
//! when no daemon runs.

use std::path::Path;

use crate::admin::catalog::Daemon;
use crate::api::catalog::{Change, HistoryRequest, HistoryResponse};
use crate::model::Result;
use crate::service::cancel::Cancel;
use crate::service::catalog::history::HistoryQuery;
use crate::store::ReadOnlyStore;

/// The changes that are kept.
#[derive(Debug, Default)]
pub struct History {
    /// Newest first.
    pub changes: Vec<Change>,
    /// The oldest change in the log, whatever its name.
    pub first: u64,
    /// Whether there are more than were asked for.
    pub has_more: bool,
}

/// Reads at most `most` changes.
pub async fn run(
    daemon: &Daemon,
    root: impl FnOnce() -> Result<std::path::PathBuf>,
    request: HistoryRequest,
    most: usize,
) -> Result<History> {
    let path = "/lmdbimages.v1.Catalog/History";
    let first = match daemon.try_call::<HistoryResponse>(path, None, page(&request, most)).await {
        Ok(page) => page,
        Err(error) if error.is_unreachable() => return from_files(&root()?, request, most),
        Err(error) => return Err(daemon.error(error)),
    };
    let mut found = History::default();
    let mut next = found.add(first, most);
    while let Some(token) = next {
        let request = HistoryRequest { page_token: token, ..request.clone() };
        next = found.add(daemon.call(path, None, page(&request, most)).await?, most);
    }
    Ok(found)
}

fn page(request: &HistoryRequest, most: usize) -> HistoryRequest {
    HistoryRequest { page_size: i32::try_from(most).unwrap_or(i32::MAX), ..request.clone() }
}

fn from_files(root: &Path, request: HistoryRequest, most: usize) -> Result<History> {
    let store = ReadOnlyStore::open(root)?;
    let mut found = History::default();
    let mut token = Some(String::new());
    while let Some(page_token) = token {
        let request = HistoryRequest { page_token, ..page(&request, most) };
        let query = HistoryQuery::new(request, store.uuid())?;
        let read =
            store.read(|snapshot| query.page(snapshot, store.uuid(), &mut Cancel::never()))?;
        token = found.add(read, most);
    }
    Ok(found)
}

impl History {
    /// Adds a page. Gives the token of the next one if more is wanted.
    fn add(&mut self, page: HistoryResponse, most: usize) -> Option<String> {
        self.first = page.first;
        let room = most.saturating_sub(self.changes.len());
        self.has_more = page.changes.len() > room || !page.next_page_token.is_empty();
        self.changes.extend(page.changes.into_iter().take(room));
        let is_full = self.changes.len() >= most;
        Some(page.next_page_token).filter(|token| !token.is_empty() && !is_full)
    }
}

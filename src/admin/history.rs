//! `lmdb-images history`: the changes of a name or a digest, from the daemon, or from the files of the store
//! when no daemon runs.

use std::path::Path;

use crate::admin::catalog::Daemon;
use crate::api::catalog::{Change, HistoryRequest, HistoryResponse};
use crate::model::Result;
use crate::service::cancel::Cancel;
use crate::service::catalog::history::HistoryQuery;
use crate::store::ReadOnlyStore;

/// The changes of a name or a digest that the log still has.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The changes, newest first.
    pub(crate) changes: Vec<Change>,
    /// The number of the oldest change in the log, of any image.
    pub(crate) first: u64,
    /// Whether the log has more changes of the image than the call asked for.
    pub(crate) has_more: bool,
}

/// Reads at most `max` changes from the daemon. If no daemon answers and `root` is given, reads them from the files
/// in `root`.
pub(crate) async fn run(
    daemon: &Daemon,
    root: Option<impl FnOnce() -> Result<std::path::PathBuf>>,
    request: HistoryRequest,
    max: usize,
) -> Result<History> {
    let path = "/lmdbimages.v1.Catalog/History";
    let first = match daemon.try_call::<HistoryResponse>(path, None, page(&request, max)).await {
        Ok(page) => page,
        Err(error) => match root.filter(|_| error.is_unreachable()) {
            Some(root) => return from_files(&root()?, request, max),
            None => return Err(daemon.error(error)),
        },
    };
    let mut found = History::default();
    let mut next = found.add(first, max);
    while let Some(token) = next {
        let request = HistoryRequest { page_token: token, ..request.clone() };
        next = found.add(daemon.call(path, None, page(&request, max)).await?, max);
    }
    Ok(found)
}

fn page(request: &HistoryRequest, max: usize) -> HistoryRequest {
    HistoryRequest { page_size: i32::try_from(max).unwrap_or(i32::MAX), ..request.clone() }
}

fn from_files(root: &Path, request: HistoryRequest, max: usize) -> Result<History> {
    let store = ReadOnlyStore::open(root)?;
    let mut found = History::default();
    let mut token = Some(String::new());
    while let Some(page_token) = token {
        let request = HistoryRequest { page_token, ..page(&request, max) };
        let query = HistoryQuery::new(request, store.uuid())?;
        let read =
            store.read(|snapshot| query.page(snapshot, store.uuid(), &mut Cancel::never()))?;
        token = found.add(read, max);
    }
    Ok(found)
}

impl History {
    /// Adds a page. Returns the token of the next page if the caller wants more changes.
    fn add(&mut self, page: HistoryResponse, max: usize) -> Option<String> {
        self.first = page.first;
        let left = max.saturating_sub(self.changes.len());
        self.has_more = page.changes.len() > left || !page.next_page_token.is_empty();
        self.changes.extend(page.changes.into_iter().take(left));
        let is_full = self.changes.len() >= max;
        Some(page.next_page_token).filter(|token| !token.is_empty() && !is_full)
    }
}

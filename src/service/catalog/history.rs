//! The changes of one name or one digest, newest first.

use std::collections::{BTreeSet, VecDeque};

use protobuf::Message;

use super::entry::{Fields, entry};
use super::errors::{epoch_changed, log_off};
use super::token::{PageToken, RequestHash, Start, page_size, request_hash};
use crate::api::catalog::history_request::Of;
use crate::api::catalog::{Change, HistoryRequest, HistoryResponse};
use crate::model::{Error, Namespace, Result, digest};
use crate::service::cancel::Cancel;
use crate::store::{LogHead, Records, Snapshot};

/// The number of changes of a page, if the request does not set it.
const DEFAULT_PAGE_SIZE: usize = 100;

/// The most changes of a page.
const MAX_PAGE_SIZE: usize = 1000;

/// The bytes of a page after which it ends, unless it has only one change.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// A valid request.
#[derive(Debug)]
pub(crate) struct HistoryQuery {
    of: Subject,
    namespaces: BTreeSet<String>,
    before: u64,
    since: Option<(i64, i32)>,
    size: usize,
    hash: RequestHash,
    from: Option<PageToken>,
}

#[derive(Debug)]
enum Subject {
    Name(String),
    Digest(String),
}

impl HistoryQuery {
    /// Reads a request. `uuid` is that of the store.
    pub(crate) fn new(request: HistoryRequest, uuid: &str) -> Result<Self> {
        let (of, kind, text) = match request.of {
            Some(Of::Name(name)) if !name.is_empty() => (Subject::Name(name.clone()), "name", name),
            Some(Of::Digest(wanted)) => {
                digest::validate(&wanted).map_err(|why| {
                    Error::invalid_argument(format_args!("digest {wanted:?}: {why}"))
                })?;
                (Subject::Digest(wanted.clone()), "digest", wanted)
            }
            _ => return Err(Error::invalid_argument("HistoryRequest.name or digest must be set")),
        };
        for namespace in &request.namespaces {
            Namespace::parse(namespace)?;
        }
        let since = request.since.as_ref().map(|since| (since.seconds, since.nanos));
        let bounds = [kind.into(), text, request.before.to_string(), format!("{since:?}")];
        let hash = request_hash("History", &[&bounds, &request.namespaces]);
        let from = match request.page_token.as_str() {
            "" => None,
            token => Some(PageToken::decode(token, uuid, &hash)?),
        };
        let size = page_size(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?;
        let namespaces = request.namespaces.into_iter().collect();
        Ok(Self { of, namespaces, before: request.before, since, size, hash, from })
    }

    /// Reads a page.
    pub(crate) fn page(
        &self,
        snapshot: &Snapshot<'_>,
        uuid: &str,
        cancel: &mut Cancel,
    ) -> Result<HistoryResponse> {
        let head = snapshot.log_head()?.ok_or_else(log_off)?;
        let start = Start { epoch: head.epoch, seq: head.last };
        let begun = self.from.as_ref().map_or(start, |token| token.start);
        if begun.epoch != head.epoch {
            return Err(epoch_changed(&begun.epoch, &head));
        }
        let position = self.from.as_ref().and_then(|t| t.position.first_chunk().copied());
        let bound = [position.map(u64::from_be_bytes), Some(self.before).filter(|b| *b > 0)];
        let below = bound.into_iter().flatten().min().unwrap_or(u64::MAX);
        let wanted = |change: &Fields<'_>| change.seq < below && self.is_wanted(change);
        let found = scan(snapshot, &head, self.size.saturating_add(1), wanted, cancel)?;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for seq in found.iter().rev() {
            let change = entry(snapshot, *seq)?;
            bytes += change.compute_size() as usize;
            if changes.len() == self.size || (!changes.is_empty() && bytes > MAX_PAGE_BYTES) {
                break;
            }
            changes.push(change);
        }
        let last = changes.last().map_or(0, |change| change.seq);
        let has_more = changes.len() < found.len();
        let position = last.to_be_bytes().to_vec();
        let next = has_more.then_some(PageToken { request: self.hash, start: begun, position });
        Ok(HistoryResponse {
            changes,
            next_page_token: next.map(|token| token.encode(uuid)).unwrap_or_default(),
            epoch: head.epoch.to_string(),
            first: head.first,
            ..HistoryResponse::default()
        })
    }

    fn is_wanted(&self, change: &Fields<'_>) -> bool {
        let is_of = match &self.of {
            Subject::Name(name) => change.name == name.as_bytes(),
            // If the bytes do not contain the digest, the states need not be decoded.
            Subject::Digest(wanted) => {
                change.contains(wanted) && change.states().any(|s| s.target.digest == *wanted)
            }
        };
        is_of
            && (self.namespaces.is_empty()
                || std::str::from_utf8(change.namespace)
                    .is_ok_and(|namespace| self.namespaces.contains(namespace)))
            && self.since.is_none_or(|since| change.time() >= since)
    }
}

/// The newest change of a name.
pub(crate) fn newest_of(
    snapshot: &Snapshot<'_>,
    namespace: &Namespace,
    name: &str,
    cancel: &mut Cancel,
) -> Result<Option<Change>> {
    let Some(head) = snapshot.log_head()? else { return Ok(None) };
    let found = changes_of_name(snapshot, &head, namespace, name, |_| false, cancel)?;
    found.ends.map(|(_, newest)| entry(snapshot, newest)).transpose()
}

/// The result of [`changes_of_name`].
#[derive(Debug, Default)]
pub(crate) struct NameChanges {
    /// The numbers of the oldest and the newest change.
    pub(crate) ends: Option<(u64, u64)>,
    /// The number of the newest change for which `is_before` returned true.
    pub(crate) before: Option<u64>,
}

/// Finds the oldest and the newest change of a name, and the newest one for which `is_before` returns true.
pub(crate) fn changes_of_name(
    snapshot: &Snapshot<'_>,
    head: &LogHead,
    namespace: &Namespace,
    name: &str,
    is_before: impl Fn(&Fields<'_>) -> bool,
    cancel: &mut Cancel,
) -> Result<NameChanges> {
    let mut found = NameChanges::default();
    for_each(snapshot, head, cancel, |change| {
        if change.name == name.as_bytes() && change.namespace == namespace.as_str().as_bytes() {
            found.ends = Some((found.ends.map_or(change.seq, |(oldest, _)| oldest), change.seq));
            if is_before(change) {
                found.before = Some(change.seq);
            }
        }
    })?;
    Ok(found)
}

/// The numbers of the last `max` wanted changes, in order.
fn scan(
    snapshot: &Snapshot<'_>,
    head: &LogHead,
    max: usize,
    mut wanted: impl FnMut(&Fields<'_>) -> bool,
    cancel: &mut Cancel,
) -> Result<VecDeque<u64>> {
    let mut found = VecDeque::new();
    for_each(snapshot, head, cancel, |change| {
        if wanted(change) {
            if found.len() == max {
                found.pop_front();
            }
            found.push_back(change.seq);
        }
    })?;
    Ok(found)
}

fn for_each(
    snapshot: &Snapshot<'_>,
    head: &LogHead,
    cancel: &mut Cancel,
    mut visit: impl FnMut(&Fields<'_>),
) -> Result<()> {
    snapshot.for_each_entry(head.first, &mut |seq, bytes| {
        cancel.check()?;
        snapshot.check_held()?;
        let fields = Fields::new(seq, bytes)
            .ok_or_else(|| Error::DataLoss(format!("change {seq} of the log is none")))?;
        visit(&fields);
        Ok(true)
    })
}

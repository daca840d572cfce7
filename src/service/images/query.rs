//! The List operation: compiles its filters, plans the look-ups, and reads the images by look-ups in the
//! index or by a scan.

use crate::limits::memory::ReplyBuffer;
use crate::log_throttle::{shorten, throttled_log};
use crate::model::filter::Filter;
use crate::model::image::Image;
use crate::model::image::encoded::Encoded;
use crate::model::image::plan::{Lookup, QueryPlan};
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::decode;
use crate::service::reply::{BuildOutcome, ReplyBuilder};
use crate::store::{Kind, RecordRef, Records};

/// The filters of a List and their plan.
#[derive(Debug)]
pub struct Query {
    filter: Filter,
    plan: QueryPlan,
}

impl Query {
    /// Parses and plans filters.
    pub fn new(filters: &[String]) -> Result<Self> {
        Self::compile(filters, &mut Cancel::never())
    }

    /// Like [`new`](Self::new), within the bounds of time and memory that `cancel` has.
    pub fn compile(filters: &[String], cancel: &mut Cancel) -> Result<Self> {
        // Wraps the error twice, as containerd does: once where it parses the filters, and once where it
        // lists images. So the message repeats the status text.
        let parse = |filters: &[String]| {
            Filter::parse(filters).map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))
        };
        let filter = cancel.compile(filters, parse)?;
        let plan = QueryPlan::new(&filter);
        Ok(Self { filter, plan })
    }

    /// The plan.
    pub fn plan(&self) -> &QueryPlan {
        &self.plan
    }

    /// The plan, shortened for the log.
    fn shown_plan(&self) -> String {
        shorten(&self.plan.to_string()).into_owned()
    }

    /// The prefix of names, if this is the plan's only look-up. The candidates are then one range of
    /// records, so List reads the range directly and does not collect candidates first.
    pub(crate) fn as_name_prefix(&self) -> Option<&[u8]> {
        let QueryPlan::Lookups(alternatives) = &self.plan else { return None };
        let [lookups] = alternatives.as_slice() else { return None };
        let [Lookup::NamePrefix(beginning)] = lookups.as_slice() else { return None };
        Some(beginning)
    }

    /// Returns true if the encoded image matches. Long matching calls `step` now and then; its error ends
    /// the matching.
    pub fn matches(&self, image: &[u8], step: &mut impl FnMut() -> Result<()>) -> Result<bool> {
        match Encoded::new(image) {
            _ if self.filter.matches_all() => Ok(true),
            Some(image) => self.filter.try_matches(&image, step),
            None => self.filter.try_matches(&decode::<Image>(image)?, step),
        }
    }
}

/// Builds the `ListImagesResponse` of the matching images. Once the buffer is full, only the size of the
/// response is computed. `cancel` can end the work. A damaged record is left out and logged.
pub fn list(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    buffer: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    if let Some(beginning) = query.as_name_prefix() {
        log::debug!("list in {namespace}: {}", query.shown_plan());
        let names = records.scan_names(namespace, beginning)?;
        return fill(records, names, namespace, query, buffer, cancel);
    }
    match candidates(records, namespace, query, max_lookups(records)?, &mut cancel)? {
        Some(found) => fill(records, found.into_iter().map(Ok), namespace, query, buffer, cancel),
        None => {
            log::debug!("list in {namespace}: all images are read; {}", query.shown_plan());
            let all = records.scan(namespace, Kind::Image)?;
            fill(records, all, namespace, query, buffer, cancel)
        }
    }
}

/// Like [`list`], if the work is small enough for the thread of the connection: few candidates, or few
/// images in the namespace. Returns `None` if it is not.
pub fn list_if_few(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
    buffer: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<Option<BuildOutcome>> {
    match candidates(records, namespace, query, MAX_INLINE_CANDIDATES, &mut cancel)? {
        Some(found) => {
            fill(records, found.into_iter().map(Ok), namespace, query, buffer, cancel).map(Some)
        }
        None => {
            let some = records.scan(namespace, Kind::Image)?.take(MAX_INLINE_SCAN + 1);
            let some: Vec<_> = some.collect();
            if some.len() > MAX_INLINE_SCAN {
                return Ok(None);
            }
            fill(records, some.into_iter(), namespace, query, buffer, cancel).map(Some)
        }
    }
}

/// The number of images that a List with this query reads.
pub(crate) fn rows_examined(
    records: &impl Records,
    namespace: &Namespace,
    query: &Query,
) -> Result<usize> {
    if let Some(beginning) = query.as_name_prefix() {
        return Ok(records.scan_names(namespace, beginning)?.count());
    }
    let mut cancel = Cancel::never();
    Ok(match candidates(records, namespace, query, max_lookups(records)?, &mut cancel)? {
        Some(found) => found.len(),
        None => records.scan(namespace, Kind::Image)?.count(),
    })
}

/// The most candidates that a List looks up one by one. If there are more, a full scan is faster.
pub(crate) fn max_lookups(records: &impl Records) -> Result<usize> {
    Ok(usize::try_from(records.approximate_count()? / SCAN_STEPS)
        .unwrap_or(usize::MAX)
        .max(MAX_INLINE_CANDIDATES))
}

/// The most candidates that a List reads on the thread of the connection. Reading them takes less time than
/// passing the request to another thread.
const MAX_INLINE_CANDIDATES: usize = 32;

/// The most images of a namespace that a List scans on the thread of the connection, for the same reason.
/// The threads of the pool also have a lower priority.
const MAX_INLINE_SCAN: usize = 512;

/// How many records a full scan reads in the time of one look-up by the index.
const SCAN_STEPS: u64 = 4;

/// Collects the candidates from the index: all matching images, and perhaps some that do not match. Returns
/// `None` if the index cannot narrow the query, is damaged, or finds more than `max_candidates`.
pub fn candidates<'t>(
    records: &'t impl Records,
    namespace: &Namespace,
    query: &Query,
    max_candidates: usize,
    cancel: &mut Cancel,
) -> Result<Option<Vec<RecordRef<'t>>>> {
    let mut step = || cancel.check().and_then(|()| records.check_held());
    let found = records.candidates(namespace, &query.plan, max_candidates, &mut step);
    // If the time or the snapshot ran out during the look-up, this call returns that error again.
    step()?;
    let found = found.unwrap_or_else(|e| {
        throttled_log!(Error, "looking up images in namespace {namespace}: {e}");
        None
    });
    let Some(found) = found else { return Ok(None) };
    log::debug!("list in {namespace}: {}; {} candidates", query.shown_plan(), found.len());
    Ok(Some(found))
}

fn fill<'t>(
    records: &impl Records,
    entries: impl Iterator<Item = Result<RecordRef<'t>>>,
    namespace: &Namespace,
    query: &Query,
    buffer: ReplyBuffer<'_>,
    mut cancel: Cancel,
) -> Result<BuildOutcome> {
    let mut reply = ReplyBuilder::new(buffer);
    // `matches` also calls this while it matches one image: a regular expression on a long field is slow.
    let mut step = || cancel.check().and_then(|()| records.check_held());
    for entry in entries {
        step()?;
        let image = entry?.message();
        match image.and_then(|image| Ok((image, query.matches(image, &mut step)?))) {
            Ok((image, true)) => reply.add(image),
            Ok((_, false)) => {}
            // Errors of `step`, not of one image: the time or the snapshot ran out.
            Err(e @ (Error::DeadlineExceeded(_) | Error::Unavailable(_))) => return Err(e),
            Err(e) => {
                reply.leave_out();
                throttled_log!(Error, "left out of a list of namespace {namespace}: {e}");
            }
        }
    }
    Ok(reply.built())
}

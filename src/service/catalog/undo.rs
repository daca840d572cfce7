//! Undo: which state an image is to have again, and whether it may.

use go_compat::quote::quote;
use protobuf::Message;
use protobuf::well_known_types::timestamp::Timestamp;

use super::entry::{Fields, entry, state_of};
use super::errors::{check_epoch, check_kept, compacted, log_off, parse_epoch};
use super::history::{changes_of_name, newest_of};
use crate::api::catalog::undo_request::{To, What};
use crate::api::catalog::{Change, Kind, Origin, State, UndoRequest};
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::store::{LogHead, Snapshot};

/// A state that an image is to have again.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The namespace of the image.
    pub namespace: Namespace,
    /// The name.
    pub name: String,
    /// The state to restore; `None` removes the image.
    pub state: Option<State>,
    /// The newest change of the image in the log: the image is restored only while this is the newest. `None`: the
    /// image is restored in any case.
    pub expected: Option<Box<Change>>,
    /// The change that is undone, or 0.
    pub undoes: u64,
}

/// The result of an undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The image had that state already.
    Unchanged,
    /// The change with this number, or 0 if it has none, was made.
    Changed(u64),
}

impl State {
    /// The image of that name with this state.
    pub(crate) fn into_image(self, name: &str) -> Image {
        Image {
            name: name.to_owned(),
            labels: self.labels,
            target: self.target,
            created_at: self.created_at,
            updated_at: self.updated_at,
            ..Image::default()
        }
    }

    /// Whether labels and target are the same: an undo cannot bring back the time of the last change.
    fn is_like(&self, other: &Self) -> bool {
        self.labels == other.labels && self.target == other.target
    }
}

impl Restore {
    /// Whether the image has the state already.
    pub(crate) fn is_done(&self, stored: Option<&[u8]>) -> Result<bool> {
        Ok(match (&self.state, stored.map(state_of).transpose()?) {
            (None, None) => true,
            (Some(wanted), Some(found)) => wanted.is_like(&found),
            _ => false,
        })
    }

    /// The memory of the change.
    pub fn memory(&self) -> usize {
        self.name.len() + self.state.as_ref().map_or(0, |s| 4 * s.compute_size() as usize)
    }

    /// The change that would be made to `stored`, as the log would have it.
    pub(crate) fn preview(&self, stored: Option<&[u8]>) -> Result<Option<Change>> {
        if self.is_done(stored)? {
            return Ok(None);
        }
        let kind = match (stored, &self.state) {
            (_, None) => Kind::KIND_DELETED,
            (None, Some(_)) => Kind::KIND_CREATED,
            (Some(_), Some(_)) => Kind::KIND_UPDATED,
        };
        Ok(Some(Change {
            kind: kind.into(),
            origin: Origin::ORIGIN_UNDO.into(),
            namespace: self.namespace.to_string(),
            name: self.name.clone(),
            before: stored.map(state_of).transpose()?.into(),
            after: self.state.clone().into(),
            undoes: self.undoes,
            ..Change::default()
        }))
    }
}

/// Refuses to restore an image whose present state is not the one after the change that is undone.
pub(crate) fn check_unchanged(restore: &Restore, stored: Option<&[u8]>) -> Result<()> {
    let Some(expected) = &restore.expected else { return Ok(()) };
    let found = stored.map(state_of).transpose()?;
    let is_same = match (&*expected.after, &found) {
        (_, None) => expected.after.is_none(),
        (after, Some(found)) if expected.truncated => after.target.digest == found.target.digest,
        (after, Some(found)) => expected.after.is_some() && after == found,
    };
    if is_same {
        return Ok(());
    }
    Err(Error::failed_precondition(format_args!(
        "image {} is not as change {} left it; force restores its state all the same",
        quote(&restore.name),
        expected.seq
    ))
    .with_reason("CHANGED_SINCE", vec![("seq", expected.seq.to_string())]))
}

/// Finds what a request means. `namespace` is that of the call.
pub(crate) fn plan(
    snapshot: &Snapshot<'_>,
    request: &UndoRequest,
    namespace: &Result<Namespace>,
    cancel: &mut Cancel,
) -> Result<Restore> {
    let head = snapshot.log_head()?.ok_or_else(log_off)?;
    check_epoch(parse_epoch(&request.epoch)?, &head)?;
    match (&request.what, &request.to) {
        (None, _) => Err(Error::invalid_argument("UndoRequest.seq or name must be set")),
        (Some(What::Seq(0)), _) => Err(Error::invalid_argument(
            "UndoRequest.seq must be at least 1: the numbers of changes begin with it",
        )),
        (Some(What::Seq(_)), Some(_)) => Err(Error::invalid_argument(
            "UndoRequest.to_seq and to_time go with name only: a seq says already which state is meant",
        )),
        (Some(What::Seq(seq)), None) => undo_change(snapshot, &head, *seq, request.force, cancel),
        (Some(What::Name(name)), None) => {
            let namespace = namespace.as_ref().map_err(Clone::clone)?;
            let newest = newest_of(snapshot, namespace, name, cancel)?;
            let Some(newest) = newest else { return Err(unknown(name, &head)) };
            restore_before(newest, None)
        }
        (Some(What::Name(name)), Some(to)) => {
            restore_to(snapshot, &head, namespace.as_ref(), name, to, cancel)
        }
    }
}

fn unknown(name: &str, head: &LogHead) -> Error {
    Error::not_found(format_args!(
        "image {} in the log of changes, which has {} to {}",
        quote(name),
        head.first,
        head.last
    ))
}

/// Undoes the change with that number.
fn undo_change(
    snapshot: &Snapshot<'_>,
    head: &LogHead,
    seq: u64,
    force: bool,
    cancel: &mut Cancel,
) -> Result<Restore> {
    check_kept(seq, head)?;
    let change = entry(snapshot, seq)?;
    let namespace = Namespace::parse(&change.namespace)?;
    let newest = newest_of(snapshot, &namespace, &change.name, cancel)?;
    match newest {
        Some(newest) if newest.seq != seq && !force => Err(changed_since(&newest, seq)),
        Some(_) if force => restore_before(change, Some(())),
        _ => restore_before(change, None),
    }
}

fn changed_since(newest: &Change, seq: u64) -> Error {
    let by = newest.actor.as_ref().map(|actor| format!(" by {}", quote(&actor.comm)));
    Error::failed_precondition(format_args!(
        "image {} was changed after change {seq}, last by change {}{}; force restores its state all the \
         same",
        quote(&newest.name),
        newest.seq,
        by.unwrap_or_default()
    ))
    .with_reason("CHANGED_SINCE", vec![("seq", newest.seq.to_string())])
}

/// The state before a change. With `forced` it may be restored whatever the image is now.
fn restore_before(change: Change, forced: Option<()>) -> Result<Restore> {
    check_whole(&change, change.before.is_some())?;
    Ok(Restore {
        namespace: Namespace::parse(&change.namespace)?,
        name: change.name.clone(),
        state: change.before.clone().into_option(),
        undoes: change.seq,
        expected: forced.is_none().then(|| Box::new(change)),
    })
}

fn check_whole(change: &Change, needs_state: bool) -> Result<()> {
    if change.truncated && needs_state {
        return Err(Error::failed_precondition(format_args!(
            "change {} cannot be undone: the states of image {} before and after it are more than 64 KiB, \
             so the log has their digests only",
            change.seq,
            quote(&change.name)
        ))
        .with_reason("TRUNCATED", vec![("seq", change.seq.to_string())]));
    }
    Ok(())
}

/// The state that a name had after a change, or at a time.
fn restore_to(
    snapshot: &Snapshot<'_>,
    head: &LogHead,
    namespace: std::result::Result<&Namespace, &Error>,
    name: &str,
    to: &To,
    cancel: &mut Cancel,
) -> Result<Restore> {
    let namespace = namespace.map_err(Clone::clone)?;
    match to {
        // The state before the first change is known too.
        To::ToSeq(seq) if seq.saturating_add(1) < head.first => return Err(compacted(*seq, head)),
        To::ToSeq(seq) if *seq > head.last => check_kept(*seq, head)?,
        To::ToSeq(_) => {}
        To::ToTime(time) => check_time(snapshot, head, time)?,
    }
    let is_before = |change: &Fields<'_>| match to {
        To::ToSeq(seq) => change.seq <= *seq,
        To::ToTime(time) => change.time() <= (time.seconds, time.nanos),
    };
    let found = changes_of_name(snapshot, head, namespace, name, is_before, cancel)?;
    let Some((oldest, newest)) = found.ends else { return Err(unknown(name, head)) };
    let (state, source) = match found.before {
        Some(seq) => {
            let change = entry(snapshot, seq)?;
            (change.after.clone().into_option(), change)
        }
        None => {
            let change = entry(snapshot, oldest)?;
            (change.before.clone().into_option(), change)
        }
    };
    check_whole(&source, state.is_some())?;
    Ok(Restore {
        namespace: namespace.clone(),
        name: name.to_owned(),
        state,
        expected: Some(Box::new(entry(snapshot, newest)?)),
        undoes: 0,
    })
}

/// Refuses a time before the oldest change that is kept: the state then is not known.
fn check_time(snapshot: &Snapshot<'_>, head: &LogHead, time: &Timestamp) -> Result<()> {
    if head.is_empty() || head.first == 1 {
        return Ok(());
    }
    let oldest = entry(snapshot, head.first)?;
    if (time.seconds, time.nanos) < (oldest.time.seconds, oldest.time.nanos) {
        return Err(compacted(head.first.saturating_sub(1), head));
    }
    Ok(())
}

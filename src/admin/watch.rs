//! `lmdb-images watch`: follows the changes of a daemon, also over its restarts.

use std::time::Duration;

use crate::admin::catalog::{CallError, Daemon};
use crate::api::catalog::watch_response::Is;
use crate::api::catalog::{Change, HeadRequest, HeadResponse, WatchRequest, WatchResponse};
use crate::model::{Error, Result};

/// Pause before the next call of a daemon that has stopped.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The change with which a watch begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartPosition {
    /// With the next change.
    Now,
    /// With the oldest change that is kept.
    Oldest,
    /// With this change.
    Seq(u64),
}

/// An event of a watch, to print.
#[derive(Debug)]
pub(crate) enum WatchEvent {
    /// A change, or an image that is there.
    Change(Box<Change>),
    /// A sentence about the watch itself.
    Note(String),
}

/// Follows the changes, until `on` or the daemon ends it. A daemon that goes is waited for. When the next
/// change is no longer kept, all images are listed again.
///
/// # Errors
/// If the daemon cannot be reached at first, or refuses the watch; or the error of `on`.
pub(crate) async fn run<E: From<Error>>(
    daemon: &Daemon,
    from: StartPosition,
    request: WatchRequest,
    mut on: impl FnMut(WatchEvent) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut request = begin(daemon, from, request).await?;
    let mut is_first = true;
    loop {
        let mut position = (request.epoch.clone(), request.from);
        let ended = follow(daemon, request.clone(), &mut position, &mut on).await?;
        let has_begun = position.1 > request.from || request.initial_state;
        (request.epoch, request.from) = position;
        match ended {
            error if matches!(error.reason.as_str(), "COMPACTED" | "EPOCH_CHANGED" | "AHEAD") => {
                if is_first && !has_begun {
                    return Err(daemon.error(error).into());
                }
                on(WatchEvent::Note(format!(
                    "{}; what follows first is the present state",
                    daemon.error(error)
                )))?;
                (request.epoch, request.from) = (String::new(), 0);
                request.initial_state = true;
            }
            error if error.is_unreachable() && (!is_first || has_begun) => {
                on(WatchEvent::Note(format!("{}; trying again", daemon.error(error))))?;
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            error => return Err(daemon.error(error).into()),
        }
        is_first = false;
    }
}

/// The request for the first change that is wanted.
async fn begin(
    daemon: &Daemon,
    from: StartPosition,
    mut request: WatchRequest,
) -> Result<WatchRequest> {
    let path = "/lmdbimages.v1.Catalog/Head";
    let head: HeadResponse = daemon.call(path, None, HeadRequest::new()).await?;
    request.from = match from {
        StartPosition::Now => head.last.saturating_add(1),
        StartPosition::Oldest => head.first,
        StartPosition::Seq(seq) => seq,
    };
    request.epoch = head.epoch;
    Ok(request)
}

/// Follows one stream to its end, and says why it ended. `position` is where the next one begins.
async fn follow<E>(
    daemon: &Daemon,
    request: WatchRequest,
    position: &mut (String, u64),
    on: &mut impl FnMut(WatchEvent) -> std::result::Result<(), E>,
) -> std::result::Result<CallError, E> {
    let path = "/lmdbimages.v1.Catalog/Watch";
    let stream = daemon.grpc().stream::<_, WatchResponse>(path, request).await;
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(status) => {
            return Ok(CallError::new(status.code() as i32, status.message(), status.details()));
        }
    };
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(CallError::unreachable("the watch ended")),
            Err(status) => {
                return Ok(CallError::new(
                    status.code() as i32,
                    status.message(),
                    status.details(),
                ));
            }
        };
        match message.is {
            Some(Is::Started(started)) => position.0 = started.epoch,
            Some(Is::Changes(changes)) => {
                for change in changes.changes {
                    if change.seq > 0 {
                        position.1 = change.seq.saturating_add(1);
                    }
                    on(WatchEvent::Change(Box::new(change)))?;
                }
            }
            Some(Is::Progress(progress)) => position.1 = progress.seq.saturating_add(1),
            Some(Is::InitialEnd(end)) => position.1 = end.seq.saturating_add(1),
            None => {}
        }
    }
}

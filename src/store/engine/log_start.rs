//! Decides whether the log continues or restarts when a store is opened.

use crate::model::Result;
use crate::store::changelog::LogHead;
use crate::store::changelog::keep::LogStep;
use crate::store::schema::log_meta::{LogMeta, Retention};

/// The state of the log after the store is opened.
pub(crate) enum LogStart {
    /// The log continues, or stays off.
    Continue(Option<LogHead>),
    /// The log restarts.
    Restart(LogStep),
}

/// Decides whether a log with this `meta` and `head` continues or restarts, under the retention `keep`.
pub(crate) fn decide(meta: LogMeta, head: Result<Option<LogHead>>, keep: Retention) -> LogStart {
    let keep_noted = Some(keep);
    if !keep.is_on() {
        if meta.epoch.is_none() {
            return LogStart::Continue(None);
        }
        log::info!("the log of changes is turned off, and its entries are removed");
        let meta = LogMeta { epoch: None, first: 1, keep: keep_noted };
        return LogStart::Restart(LogStep::Restart { meta, clears: true });
    }
    match head {
        Ok(Some(head)) => return LogStart::Continue(Some(head)),
        Ok(None) => log::info!("the log of changes is turned on"),
        Err(why) => log::error!("the log of changes restarts, in a new epoch: {why}"),
    }
    let meta = LogMeta { keep: keep_noted, ..LogMeta::new() };
    LogStart::Restart(LogStep::Restart { meta, clears: true })
}

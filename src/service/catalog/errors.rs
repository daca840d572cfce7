//! The errors of the catalogue that programs are expected to handle, and where in the log a client may
//! begin to read.

use go_compat::quote::quote;
use uuid::Uuid;

use crate::model::{Error, Result};
use crate::store::LogHead;

/// The values that a client needs to begin again.
fn ends(head: &LogHead) -> Vec<(&'static str, String)> {
    vec![
        ("first", head.first.to_string()),
        ("last", head.last.to_string()),
        ("epoch", head.epoch.to_string()),
    ]
}

/// The log is off.
pub(crate) fn log_off() -> Error {
    Error::FailedPrecondition(
        "the daemon keeps no log of changes: set log-keep to more than 0 and start it again".into(),
    )
    .with_reason("LOG_OFF", Vec::new())
}

/// The change `seq` is no longer kept.
pub(crate) fn compacted(seq: u64, head: &LogHead) -> Error {
    Error::OutOfRange(format!(
        "change {seq} is no longer kept; the log has {} to {}: list again, then watch from the list's seq",
        head.first, head.last
    ))
    .with_reason("COMPACTED", ends(head))
}

/// The change `seq` lies ahead.
fn ahead(seq: u64, head: &LogHead) -> Error {
    Error::OutOfRange(format!(
        "change {seq} lies ahead: the newest is {}; if it was seen before, the store was put back to an \
         earlier state: list again, then watch from the list's seq",
        head.last
    ))
    .with_reason("AHEAD", ends(head))
}

/// The log began anew.
pub(crate) fn epoch_changed(known: &Uuid, head: &LogHead) -> Error {
    Error::FailedPrecondition(format!(
        "the log began anew: its epoch is {}, not {known}: list again, then watch from the list's seq",
        head.epoch
    ))
    .with_reason("EPOCH_CHANGED", ends(head))
}

/// Reads an epoch of a request. `None` if it is empty.
pub(crate) fn parse_epoch(epoch: &str) -> Result<Option<Uuid>> {
    if epoch.is_empty() {
        return Ok(None);
    }
    Uuid::try_parse(epoch).map(Some).map_err(|_| {
        Error::invalid_argument(format_args!(
            "epoch {} is none: send the epoch that Head, List or Watch gave, such as \
             6a2f4f0e-7d6b-4a0d-8a06-0a7a4c1f5e11",
            quote(epoch)
        ))
    })
}

/// Refuses an epoch that is not the log's.
pub(crate) fn check_epoch(epoch: Option<Uuid>, head: &LogHead) -> Result<()> {
    match epoch {
        Some(known) if known != head.epoch => Err(epoch_changed(&known, head)),
        _ => Ok(()),
    }
}

/// Refuses a position that is not in the log, nor just behind it.
pub(crate) fn check_position(epoch: &str, from: u64, head: &LogHead) -> Result<()> {
    let epoch = parse_epoch(epoch)?;
    if epoch.is_none() {
        return Err(Error::invalid_argument(format_args!(
            "epoch must be set: from {from} means nothing without the epoch that it belongs to, which Head, \
             List and Watch give"
        )));
    }
    check_epoch(epoch, head)?;
    if from < head.first {
        return Err(compacted(from, head));
    }
    if from > head.last.saturating_add(1) {
        return Err(ahead(from, head));
    }
    Ok(())
}

/// Refuses a change that the log does not have.
pub(crate) fn check_kept(seq: u64, head: &LogHead) -> Result<()> {
    if seq < head.first {
        return Err(compacted(seq, head));
    }
    if seq > head.last {
        return Err(ahead(seq, head));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(result: Result<()>) -> String {
        match result {
            Ok(()) => "OK".into(),
            Err(Error::Detailed(_, detail)) => detail.reason.into(),
            Err(error) => error.message().to_owned(),
        }
    }

    #[test]
    fn a_position_is_in_the_log_or_just_behind_it() {
        let head = LogHead { epoch: Uuid::from_u128(7), first: 5, last: 9, chain: 0 };
        let reason_at = |from| reason(check_position(&head.epoch.to_string(), from, &head));
        let expected = [(1, "COMPACTED"), (4, "COMPACTED"), (5, "OK"), (9, "OK"), (10, "OK")];
        for (from, said) in expected.into_iter().chain([(11, "AHEAD"), (u64::MAX, "AHEAD")]) {
            assert_eq!(reason_at(from), said, "{from}");
        }
        let other = Uuid::from_u128(8).to_string();
        assert_eq!(reason(check_position(&other, 1, &head)), "EPOCH_CHANGED");
        assert!(reason(check_position("", 5, &head)).contains("epoch must be set"));
        assert!(reason(check_position("x", 5, &head)).contains("epoch \"x\" is none"));
        let reason_kept = |seq| reason(check_kept(seq, &head));
        assert_eq!([4, 5, 9, 10].map(reason_kept), ["COMPACTED", "OK", "OK", "AHEAD"]);
    }
}

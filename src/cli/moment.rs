//! Times on the command line: a point in time, or how long ago.

use go_compat::quote::quote;
use jiff::{SignedDuration, Timestamp};

use crate::model::{Error, Result};

/// Reads a time: `2026-11-28T12:00:00Z`, or `2h` for two hours before `now`.
///
/// # Errors
/// `InvalidArgument` if it is neither. `argument` names it.
pub(crate) fn parse(argument: &str, text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Some(ago) = span_seconds(text)
        && let Ok(at) = now.checked_sub(SignedDuration::from_secs(ago))
    {
        return Ok(at);
    }
    text.parse().map_err(|_| {
        Error::InvalidArgument(format!(
            "{argument} {} is no time: give how long ago (90s, 30m, 2h, 7d), or a point in time such as \
             2026-11-28T12:00:00Z",
            quote(text)
        ))
    })
}

/// The seconds of a span of time: a number and one of the units `s`, `m`, `h`, `d`, `w`.
pub(crate) fn span_seconds(text: &str) -> Option<i64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_point_or_how_long_ago() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let seconds = |text| parse("--since", text, now).map(Timestamp::as_second);
        assert_eq!(seconds("90s"), Ok(1_000_000 - 90));
        assert_eq!(seconds("2h"), Ok(1_000_000 - 7200));
        assert_eq!(seconds("1d"), Ok(1_000_000 - 86_400));
        assert_eq!(seconds("1970-01-01T00:00:07Z"), Ok(7));
        for wrong in ["", "h", "-1h", "2", "yesterday", "2 h", "é", "99999999999999999999h"] {
            let error = seconds(wrong).unwrap_err();
            assert!(error.message().starts_with("--since "), "{error}");
        }
    }
}

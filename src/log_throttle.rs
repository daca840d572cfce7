//! Throttling of the log lines that a client's requests can cause.
//!
//! A client may send thousands of bad requests a second, with megabytes in each. Each log statement
//! writes at most [`MAX_LINES`] lines in an [`INTERVAL`], and the next line says how many were left
//! out. Long lines are shortened.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The most lines of one log statement in an interval.
const MAX_LINES: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);

/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 1024;

/// Logs a line at a level, like the macros of `log`, unless this log statement has written [`MAX_LINES`]
/// in the current [`INTERVAL`].
macro_rules! throttled_log {
    ($level:ident, $($message:tt)+) => {{
        static THROTTLE: $crate::log_throttle::LogThrottle =
            $crate::log_throttle::LogThrottle::new();
        if log::log_enabled!(log::Level::$level)
            && let Some(omitted) = THROTTLE.admit(std::time::Instant::now())
        {
            let line = format!($($message)+);
            log::log!(log::Level::$level, "{}{omitted}", $crate::log_throttle::shorten(&line));
        }
    }};
}
pub(crate) use throttled_log;

/// Counts the lines of one log statement.
#[derive(Debug)]
pub(crate) struct LogThrottle(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    lines: u32,
    omitted: u64,
}

/// The number of lines that were left out; its text is appended to the next line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Omitted(u64);

impl fmt::Display for Omitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more lines like this were left out)"),
        }
    }
}

impl LogThrottle {
    /// A throttle that has counted no line.
    #[allow(clippy::new_without_default)]
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { since: None, lines: 0, omitted: 0 }))
    }

    /// Counts a line. Returns the number of lines left out before it, or `None` if this line must be left
    /// out too.
    pub(crate) fn admit(&self, now: Instant) -> Option<Omitted> {
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= INTERVAL) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines >= MAX_LINES {
            state.omitted += 1;
            return None;
        }
        state.lines += 1;
        Some(Omitted(std::mem::take(&mut state.omitted)))
    }
}

/// A short text unchanged; of a longer text the two ends, and the number of bytes between them.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LINE_BYTES {
        return text.into();
    }
    let head = boundary(text, MAX_LINE_BYTES / 2);
    let tail = boundary(text, text.len() - MAX_LINE_BYTES / 4);
    let (begins, rest) = text.split_at_checked(head).unwrap_or((text, ""));
    let (between, ends) = rest.split_at_checked(tail - head).unwrap_or(("", rest));
    format!("{begins}… {} bytes …{ends}", between.len()).into()
}

/// The last character boundary up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_statement_writes_few_lines_and_counts_the_others() {
        let (throttle, start) = (LogThrottle::new(), Instant::now());
        let admitted = (0..100).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!(admitted, MAX_LINES as usize);
        let omitted = throttle.admit(start + INTERVAL).unwrap();
        assert_eq!(omitted.to_string(), " (95 more lines like this were left out)");
        assert_eq!(throttle.admit(start + INTERVAL).unwrap().to_string(), "");
    }

    #[test]
    fn a_long_text_keeps_its_ends() {
        assert_eq!(shorten("short"), "short");
        let short = shorten(&format!("a{}z", "é".repeat(1 << 20))).into_owned();
        assert!(short.len() < MAX_LINE_BYTES, "{}", short.len());
        assert!(short.starts_with("aé") && short.ends_with("éz") && short.contains(" bytes "));
    }
}

//! A span of time as people write it: `90s`, `30m`, `24h`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::moment;
use go_compat::quote::quote;

/// The longest span, in seconds: ten years.
const MAX_SECONDS: u64 = 10 * 365 * 86_400;

/// A span of whole seconds. It is printed as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span {
    text: String,
    seconds: u64,
}

impl Span {
    /// No time.
    pub(crate) fn zero() -> Self {
        Self { text: "0s".into(), seconds: 0 }
    }

    /// The time, if it is any.
    pub(crate) fn duration(&self) -> Option<Duration> {
        (self.seconds > 0).then(|| Duration::from_secs(self.seconds))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = moment::span_seconds(&text).and_then(|seconds| u64::try_from(seconds).ok());
        match seconds.filter(|seconds| *seconds <= MAX_SECONDS) {
            Some(seconds) => Ok(Self { text, seconds }),
            None => Err(format!(
                "{} is no span of time up to ten years: give a number and a unit, such as 90s, 30m, 24h, 7d",
                quote(&text)
            )),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.text
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(
                (span.duration(), span.to_string()),
                (Some(Duration::from_secs(seconds)), text.into())
            );
        }
        assert_eq!("0h".parse::<Span>().unwrap().duration(), None);
        for wrong in ["", "24", "h", "-1h", "1.5h", "11000d", "99999999999999999999h"] {
            let error = wrong.parse::<Span>().unwrap_err();
            assert!(error.contains("such as 90s"), "{error}");
        }
    }
}

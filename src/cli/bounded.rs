//! A whole number with bounds, checked wherever it is read: on the command line, in the environment, in a
//! file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub(crate) struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// Clamps a number to the bounds: for the program's own values.
    pub(crate) fn clamped(number: u64) -> Self {
        Self(u32::try_from(number).unwrap_or(MAX).clamp(MIN, MAX))
    }

    /// The number.
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let found = u32::try_from(number).ok().filter(|found| (MIN..=MAX).contains(found));
        found.map(Self).ok_or_else(|| format!("{number} is not in {MIN}..={MAX}"))
    }
}

impl<const MIN: u32, const MAX: u32> From<Bounded<MIN, MAX>> for i64 {
    fn from(number: Bounded<MIN, MAX>) -> Self {
        number.0.into()
    }
}

impl<const MIN: u32, const MAX: u32> FromStr for Bounded<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<i64>();
        number.map_err(|_| format!("{text:?} is not a number in {MIN}..={MAX}"))?.try_into()
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_bounds_is_refused_with_the_bounds() {
        assert_eq!("7".parse::<Bounded<1, 9>>().unwrap().get(), 7);
        for text in ["0", "10", "-1", "99999999999"] {
            let error = text.parse::<Bounded<1, 9>>().unwrap_err();
            assert_eq!(error, format!("{text} is not in 1..=9"));
        }
        for text in ["x", "", "1.5", "99999999999999999999"] {
            let error = text.parse::<Bounded<1, 9>>().unwrap_err();
            assert_eq!(error, format!("{text:?} is not a number in 1..=9"));
        }
        assert_eq!(Bounded::<1, 9>::clamped(1 << 40).get(), 9);
    }
}

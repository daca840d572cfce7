//! Parses times as Go's `time.Parse` does with its layout `time.RFC3339`.
//!
//! Go accepts a little more than RFC 3339 (an hour of one digit, a comma before the fraction, an offset
//! of 24 hours or of 60 minutes) and also less (only the letters `T` and `Z`, no leap second). Go itself
//! produced the table `tests/data/go_rfc3339.tsv` of these cases.

/// A point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since the Unix epoch, rounded down: negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after them, below 10⁹.
    pub nanos: u32,
}

/// Digits of a fraction that are used; further digits are ignored.
const FRACTION_DIGITS: usize = 9;

/// Parses `text`; `None` where Go returns an error.
pub fn parse(text: &str) -> Option<Time> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    literal(&mut rest, b'-')?;
    let month = digits(&mut rest, 2)?;
    literal(&mut rest, b'-')?;
    let day = digits(&mut rest, 2)?;
    literal(&mut rest, b'T')?;
    let hour = one_or_two_digits(&mut rest)?;
    literal(&mut rest, b':')?;
    let minute = digits(&mut rest, 2)?;
    literal(&mut rest, b':')?;
    let second = digits(&mut rest, 2)?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(month, year)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let nanos = fraction(&mut rest);
    let offset = offset(&mut rest)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    rest.is_empty().then_some(Time { seconds: seconds - offset, nanos })
}

fn literal(rest: &mut &[u8], wanted: u8) -> Option<()> {
    *rest = rest.strip_prefix(&[wanted])?;
    Some(())
}

/// Takes a number of exactly `count` digits off the front.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (number, behind) = rest.split_at_checked(count)?;
    let number = number.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })?;
    *rest = behind;
    Some(number)
}

fn one_or_two_digits(rest: &mut &[u8]) -> Option<i64> {
    digits(rest, 2).or_else(|| digits(rest, 1))
}

/// Takes a fraction of a second off the front, if there is one. Returns its nanoseconds.
fn fraction(rest: &mut &[u8]) -> u32 {
    let Some(behind) = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) else {
        return 0;
    };
    let length = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let Some((digits, behind)) = behind.split_at_checked(length).filter(|_| length > 0) else {
        return 0;
    };
    *rest = behind;
    let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(FRACTION_DIGITS);
    padded.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'))
}

/// Takes the offset from UTC off the front. Returns its seconds.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let (sign, behind) = rest.split_first()?;
    *rest = behind;
    let sign = match sign {
        b'Z' => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(rest, 2)?;
    literal(rest, b':')?;
    let minutes = digits(rest, 2)?;
    (hours <= 24 && minutes <= 60).then_some(sign * (hours * 60 + minutes) * 60)
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Returns the days from 1970-01-01 to a valid day; the year must not be negative.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    /// Days of the years 0 to 1969.
    const BEFORE_1970: i64 = 719_528;
    let leap_years =
        if year == 0 { 0 } else { 1 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 };
    let months: i64 = (1..month).map(|month| days_in(month, year)).sum();
    year * 365 + leap_years + months + day - 1 - BEFORE_1970
}

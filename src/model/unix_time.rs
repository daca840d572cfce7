//! A point in time as seconds and nanoseconds since the Unix epoch.

use std::time::SystemTime;

use protobuf::well_known_types::timestamp::Timestamp;

/// A point in time of any year. Before 1970 the seconds are negative; the nanoseconds never are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime {
    /// Whole seconds since the Unix epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds after them, below 10⁹.
    pub nanos: u32,
}

impl UnixTime {
    /// The first moment of year 1.
    const MIN_RECORD: Self = Self { seconds: -62_135_596_800, nanos: 0 };
    /// The last moment of year 9999.
    const MAX_RECORD: Self = Self { seconds: 253_402_300_799, nanos: 999_999_999 };

    /// Parses RFC 3339 as Go's `time.Parse` does; `None` where Go returns an error.
    pub fn parse(text: &str) -> Option<Self> {
        let go_compat::rfc3339::Time { seconds, nanos } = go_compat::rfc3339::parse(text)?;
        Some(Self { seconds, nanos })
    }

    /// Converts to protobuf's timestamp, clamped to its range: the years 1 to 9999.
    pub(crate) fn to_record(self) -> Timestamp {
        let Self { seconds, nanos } = self.clamp(Self::MIN_RECORD, Self::MAX_RECORD);
        let nanos = i32::try_from(nanos).unwrap_or_default();
        Timestamp { seconds, nanos, ..Timestamp::default() }
    }

    /// Converts to jiff's timestamp for display, clamped to jiff's range.
    pub(crate) fn to_jiff(self) -> jiff::Timestamp {
        let limit = if self.seconds < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let nanos = i32::try_from(self.nanos).unwrap_or_default();
        jiff::Timestamp::new(self.seconds, nanos).unwrap_or(limit)
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self { seconds: whole(since.as_secs()), nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                // Round the seconds down, so that the nanoseconds are not negative.
                match before.subsec_nanos() {
                    0 => Self { seconds: -whole(before.as_secs()), nanos: 0 },
                    nanos => Self {
                        seconds: (-whole(before.as_secs())).saturating_sub(1),
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_clock_of_any_year_gives_a_time_that_can_be_stored_and_printed() {
        let epoch = SystemTime::UNIX_EPOCH;
        let far = Duration::from_secs(i64::MAX as u64);
        for (clock, seconds, nanos, stored, shown) in [
            (epoch, 0, 0, 0, "1970-01-01T00:00:00Z"),
            (epoch + Duration::new(1, 5), 1, 5, 1, "1970-01-01T00:00:01.000000005Z"),
            (epoch - Duration::from_secs(1), -1, 0, -1, "1969-12-31T23:59:59Z"),
            (epoch - Duration::new(0, 1), -1, 999_999_999, -1, "1969-12-31T23:59:59.999999999Z"),
            (
                epoch + Duration::from_secs(253_402_300_800),
                253_402_300_800,
                0,
                253_402_300_799,
                "9999-12-30T22:00:00.999999999Z",
            ),
            (epoch + far, i64::MAX, 0, 253_402_300_799, "9999-12-30T22:00:00.999999999Z"),
            (epoch - far, -i64::MAX, 0, -62_135_596_800, "-009999-01-02T01:59:59Z"),
        ] {
            let moment = UnixTime::from(clock);
            assert_eq!((moment.seconds, moment.nanos), (seconds, nanos));
            assert_eq!(moment.to_record().seconds, stored);
            assert_eq!(moment.to_jiff().to_string(), shown);
        }
    }
}

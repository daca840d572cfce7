//! The system's clock. All code reads the clock here, because it may show any time: a machine without
//! a battery starts in 1970, and a wrong clock may show a year at which other libraries panic.

use std::time::SystemTime;

use protobuf::well_known_types::timestamp::Timestamp;

use crate::model::UnixTime;

/// The current time.
pub fn now() -> UnixTime {
    SystemTime::now().into()
}

/// The current time in the form of records and events.
pub fn record_time() -> Timestamp {
    now().to_record()
}

/// The current time in the form for output.
pub(crate) fn display_time() -> jiff::Timestamp {
    now().to_jiff()
}

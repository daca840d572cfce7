//! The system's clock, which may say anything: a machine without a battery starts in 1970, and one
//! whose clock is set wrong may be in a year that other libraries do not know and end the program over.
//! So all of it is read here.

use std::time::SystemTime;

use protobuf::well_known_types::timestamp::Timestamp;

use crate::model::UnixTime;

/// The moment that the clock shows.
pub fn now() -> UnixTime {
    SystemTime::now().into()
}

/// The same as records and events have it.
pub fn record_time() -> Timestamp {
    now().to_record()
}

/// The same, to be shown.
pub fn display_time() -> jiff::Timestamp {
    now().to_jiff()
}

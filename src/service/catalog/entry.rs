//! A change in the form of the log.

use protobuf::Message;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::api::catalog::{Change, State};
use crate::model::{Error, Result};
use crate::service::codec::decode;
use crate::store::{Snapshot, whole_state};

/// The change with that number.
pub(crate) fn entry(snapshot: &Snapshot<'_>, seq: u64) -> Result<Change> {
    let mut found = None;
    snapshot.for_each_entry(seq, &mut |at, bytes| {
        if at == seq {
            found = Some(decode::<Change>(bytes)?);
        }
        Ok(false)
    })?;
    found.ok_or_else(|| Error::DataLoss(format!("change {seq} is missing in the log")))
}

/// The fields of an encoded change that a scan looks at.
#[derive(Debug)]
pub(crate) struct Fields<'e> {
    /// The number.
    pub(crate) seq: u64,
    /// The namespace.
    pub(crate) namespace: &'e [u8],
    /// The name of the image.
    pub(crate) name: &'e [u8],
    time: &'e [u8],
    states: [Option<&'e [u8]>; 2],
}

impl<'e> Fields<'e> {
    /// Finds the fields of a change. `None` if the bytes are none.
    pub(crate) fn new(seq: u64, mut rest: &'e [u8]) -> Option<Self> {
        let empty: &[u8] = &[];
        let mut fields =
            Self { seq, namespace: empty, name: empty, time: empty, states: [None; 2] };
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            match tag & 7 {
                0 => drop(varint(&mut rest)?),
                1 => rest = rest.get(8..)?,
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).ok()?;
                    let (value, behind) = rest.split_at_checked(length)?;
                    rest = behind;
                    match tag >> 3 {
                        3 => fields.time = value,
                        6 => fields.namespace = value,
                        7 => fields.name = value,
                        8 => fields.states[0] = Some(value),
                        9 => fields.states[1] = Some(value),
                        _ => {}
                    }
                }
                _ => return None,
            }
        }
        Some(fields)
    }

    /// The encoded states before and after, as far as there are.
    pub(crate) fn encoded_states(&self) -> impl Iterator<Item = &'e [u8]> {
        self.states.into_iter().flatten()
    }

    /// The states before and after, as far as there are.
    pub(crate) fn states(&self) -> impl Iterator<Item = State> {
        self.encoded_states().filter_map(|state| State::parse_from_bytes(state).ok())
    }

    /// Whether a state has these bytes somewhere: a quick test before the states are decoded.
    pub(crate) fn contains(&self, text: &str) -> bool {
        let text = text.as_bytes();
        self.encoded_states().any(|state| state.windows(text.len()).any(|part| part == text))
    }

    /// When it was made: seconds and nanoseconds.
    pub(crate) fn time(&self) -> (i64, i32) {
        let time = Timestamp::parse_from_bytes(self.time).unwrap_or_default();
        (time.seconds, time.nanos)
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The state of an encoded image.
pub(crate) fn state_of(record: &[u8]) -> Result<State> {
    let state = whole_state(record)
        .ok_or_else(|| Error::DataLoss("a record passes its checksum but is no Image".into()))?;
    decode(&state)
}

//! A call of a client for one name, and its answer.

use std::fmt;

/// The value of a name: the size of its target. No image has 0.
pub type Value = u32;

/// No image.
pub const ABSENT: Value = 0;

/// Digests that values share.
pub const DIGESTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The value was read.
    Read(Value),
    /// A List by digest did not show the name: it is absent, or has another digest.
    NotListed(u32),
    /// The name was absent, and has the value now.
    Create(Value),
    /// The name was there, and has the value now.
    Update(Value),
    /// The name has the value now, whatever it had.
    Put(Value),
    /// The name was there, and is absent now.
    Delete,
    /// The name was there.
    Present,
}

impl Effect {
    /// The value afterwards, if the effect is possible with the value before.
    pub fn apply(self, before: Value) -> Option<Value> {
        match self {
            Self::Read(value) => (value == before).then_some(before),
            Self::NotListed(digest) => {
                (before == ABSENT || before % DIGESTS != digest).then_some(before)
            }
            Self::Create(value) => (before == ABSENT).then_some(value),
            Self::Update(value) => (before != ABSENT).then_some(value),
            Self::Put(value) => Some(value),
            Self::Delete => (before != ABSENT).then_some(ABSENT),
            Self::Present => (before != ABSENT).then_some(before),
        }
    }

    pub fn is_write(self) -> bool {
        matches!(self, Self::Create(_) | Self::Update(_) | Self::Put(_) | Self::Delete)
    }
}

/// A call, or what one List says of one name, between two ticks of the recorder's clock.
#[derive(Clone)]
pub struct Operation {
    pub client: &'static str,
    pub effect: Effect,
    pub begin: u64,
    pub end: u64,
    /// Whether it happened is unknown.
    pub in_doubt: bool,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, effect, begin, end, in_doubt } = self;
        let doubt = if *in_doubt { ", in doubt" } else { "" };
        write!(f, "{begin:>7}..{end:<7} {client:18} {effect:?}{doubt}")
    }
}

//! The databases that a write may change.

/// A database that a write may change. Entries of the journal hold its number, which never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// `records`
    Records = 1,
    /// `index`
    Index = 2,
    /// `expiring`
    Expiring = 3,
    /// `aside`
    SetAside = 4,
    /// `log`
    Log = 5,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 5] =
        [Self::Records, Self::Index, Self::Expiring, Self::SetAside, Self::Log];

    /// The name of the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Index => "index",
            Self::Expiring => "expiring",
            Self::SetAside => "aside",
            Self::Log => "log",
        }
    }

    /// The table with that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// A write: a table, a key, and its new value; `None` removes the key.
pub(crate) type Op<'c> = (Table, &'c [u8], Option<&'c [u8]>);

/// An owned [`Op`].
pub(crate) type OwnedOp = (Table, Vec<u8>, Option<Vec<u8>>);

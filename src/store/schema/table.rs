//! The databases that a change may be in.

/// One of them. Its number is how an entry of the journal calls it, and does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// All of them.
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

    /// The one with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// What happens to a key in a database: it gets that value, or goes.
pub type Op<'c> = (Table, &'c [u8], Option<&'c [u8]>);

/// The same, owned.
pub type OwnedOp = (Table, Vec<u8>, Option<Vec<u8>>);

//! The client that a call comes from, as far as it can be known. What clients share, they share by
//! client.

/// A client: a process, or a connection whose process is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// The daemon itself.
    #[default]
    Own,
    /// The process of this number.
    Process(i32),
    /// The connection of this number, from a process that the kernel does not name.
    Connection(u64),
}

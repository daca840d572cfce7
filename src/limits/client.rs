//! The client of a call. Limits that clients share count by client.

/// A client: a process, or a connection whose process is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// The daemon itself.
    #[default]
    Own,
    /// The process with this id.
    Process(i32),
    /// The connection with this number, from a process that the kernel does not name.
    Connection(u64),
}

//! The one error type of the crate: what kind of failure, and the sentence a client is shown.
//!
//! A kind stands for a status code; the table that says which is `transport::status`, and it is
//! the only one. containerd ends its sentences with the name of the kind (`: not found`); the
//! constructors here add it, so that callers write only what went wrong.

use std::fmt;

/// Shorthand for results with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, with the whole sentence a client will read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request itself is wrong, whatever the store holds.
    InvalidArgument(String),
    /// No record of that name.
    NotFound(String),
    /// A record of that name is there already.
    AlreadyExists(String),
    /// The request is right but the state of things forbids it.
    FailedPrecondition(String),
    /// A bound was reached: a reply too large, a store that is full.
    ResourceExhausted(String),
    /// Cannot be done now and may be tried again.
    Unavailable(String),
    /// A stored record is damaged. It is never given out.
    DataLoss(String),
    /// Not for whoever asks here.
    PermissionDenied(String),
    /// Not offered here.
    Unimplemented(String),
    /// The client's deadline passed, or a bound of ours on time.
    DeadlineExceeded(String),
    /// A fault of ours or of the machine.
    Internal(String),
    /// What a containerd answered: its status code, as gRPC numbers them, and its sentence.
    Upstream(i32, String),
    /// What containerd gives no code, where clients may know it so.
    Unknown(String),
}

impl Error {
    /// `<what>: invalid argument`, containerd's wording.
    pub fn invalid_argument(what: impl fmt::Display) -> Self {
        Self::InvalidArgument(format!("{what}: invalid argument"))
    }

    /// `<what>: not found`, containerd's wording.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::NotFound(format!("{what}: not found"))
    }

    /// `<what>: already exists`, containerd's wording.
    pub fn already_exists(what: impl fmt::Display) -> Self {
        Self::AlreadyExists(format!("{what}: already exists"))
    }

    /// `<what>: failed precondition`, containerd's wording.
    pub fn failed_precondition(what: impl fmt::Display) -> Self {
        Self::FailedPrecondition(format!("{what}: failed precondition"))
    }

    /// An encoded message of `size` bytes would pass the transport's `limit`. The wording is that
    /// of containerd 1.6 to 2.3 (grpc-go).
    pub fn message_too_large(size: usize, limit: usize) -> Self {
        Self::ResourceExhausted(format!(
            "grpc: trying to send message larger than max ({size} vs. {limit})"
        ))
    }

    /// This daemon ends a call because it stops.
    pub fn shutting_down() -> Self {
        Self::Unavailable("lmdb-images is shutting down".into())
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidArgument(m)
            | Self::NotFound(m)
            | Self::AlreadyExists(m)
            | Self::FailedPrecondition(m)
            | Self::ResourceExhausted(m)
            | Self::Unavailable(m)
            | Self::DataLoss(m)
            | Self::PermissionDenied(m)
            | Self::Unimplemented(m)
            | Self::DeadlineExceeded(m)
            | Self::Internal(m)
            | Self::Upstream(_, m)
            | Self::Unknown(m) => m,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

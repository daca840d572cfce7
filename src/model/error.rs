//! The error type of the crate: a kind of failure and the sentence that a client reads.
//!
//! Each kind has one status code; the only table of them is [`crate::transport::status`]. containerd ends
//! its sentences with the name of the kind (`: not found`). The constructors here append it, so callers
//! write only what went wrong.

use std::fmt;

/// Shorthand for results with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with the whole sentence that a client reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The request is wrong, independent of the contents of the store.
    InvalidArgument(String),
    /// There is no record of that name.
    NotFound(String),
    /// There already is a record of that name.
    AlreadyExists(String),
    /// The request is valid, but the current state forbids it.
    FailedPrecondition(String),
    /// A limit was reached: the reply is too large, or the store is full.
    ResourceExhausted(String),
    /// The request cannot be served now; the client may retry.
    Unavailable(String),
    /// A stored record is damaged. Damaged records are never returned.
    DataLoss(String),
    /// The client may not do this on this socket.
    PermissionDenied(String),
    /// The request asks for what lies before or behind all there is.
    OutOfRange(String),
    /// The daemon does not offer this.
    Unimplemented(String),
    /// The client's deadline or a timeout of the daemon passed.
    DeadlineExceeded(String),
    /// A fault of the daemon or of the machine.
    Internal(String),
    /// An error from containerd: its gRPC status code and its sentence.
    Upstream(i32, String),
    /// An error for which containerd answers Unknown. Clients may depend on that code.
    Unknown(String),
    /// An error with a cause that programs can recognize.
    Detailed(Box<Self>, Detail),
}

/// The cause of an error in a form for programs. Both protocols carry it as a `google.rpc.ErrorInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The kind of the cause: `COMPACTED`.
    pub reason: &'static str,
    /// Values that a program needs to go on, by their names.
    pub metadata: Vec<(&'static str, String)>,
}

/// The sentence of an error, of each variant; `$inner` is the function for the error inside another.
macro_rules! sentence {
    ($error:expr, $inner:ident) => {
        match $error {
            Self::InvalidArgument(m)
            | Self::NotFound(m)
            | Self::AlreadyExists(m)
            | Self::FailedPrecondition(m)
            | Self::ResourceExhausted(m)
            | Self::Unavailable(m)
            | Self::DataLoss(m)
            | Self::PermissionDenied(m)
            | Self::OutOfRange(m)
            | Self::Unimplemented(m)
            | Self::DeadlineExceeded(m)
            | Self::Internal(m)
            | Self::Upstream(_, m)
            | Self::Unknown(m) => m,
            Self::Detailed(error, _) => error.$inner(),
        }
    };
}

impl Error {
    /// `<what>: invalid argument`, containerd's wording.
    pub(crate) fn invalid_argument(what: impl fmt::Display) -> Self {
        Self::InvalidArgument(format!("{what}: invalid argument"))
    }

    /// `<what>: not found`, containerd's wording.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::NotFound(format!("{what}: not found"))
    }

    /// `<what>: already exists`, containerd's wording.
    pub(crate) fn already_exists(what: impl fmt::Display) -> Self {
        Self::AlreadyExists(format!("{what}: already exists"))
    }

    /// `<what>: failed precondition`, containerd's wording.
    pub(crate) fn failed_precondition(what: impl fmt::Display) -> Self {
        Self::FailedPrecondition(format!("{what}: failed precondition"))
    }

    /// An encoded message of `size` bytes would exceed the transport's `limit` in bytes. The wording is
    /// that of containerd 1.6 to 2.3 (grpc-go).
    pub(crate) fn message_too_large(size: usize, limit: usize) -> Self {
        Self::ResourceExhausted(format!(
            "grpc: trying to send message larger than max ({size} vs. {limit})"
        ))
    }

    /// The same error with a cause that programs can recognize.
    pub(crate) fn with_reason(
        self,
        reason: &'static str,
        metadata: Vec<(&'static str, String)>,
    ) -> Self {
        Self::Detailed(Box::new(self), Detail { reason, metadata })
    }

    /// The cause, if programs can recognize it: see [`with_reason`](Self::with_reason).
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Detailed(_, detail) => Some(detail.reason),
            _ => None,
        }
    }

    /// The daemon ends a call because it is stopping.
    pub(crate) fn shutting_down() -> Self {
        Self::Unavailable("lmdb-images is shutting down".into())
    }

    /// The same error with a sentence that begins with `place: `.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let message = self.message_mut();
        *message = format!("{place}: {message}");
        self
    }

    /// The same error with a sentence that does not begin with `place`.
    pub(crate) fn without(mut self, place: &str) -> Self {
        let message = self.message_mut();
        if let Some(rest) = message.strip_prefix(place) {
            *message = rest.to_owned();
        }
        self
    }

    fn message_mut(&mut self) -> &mut String {
        sentence!(self, message_mut)
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        sentence!(self, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

/// Says what failed, for the errors of libraries.
pub trait Context<T> {
    /// [`Error::Internal`] with a sentence that begins with `doing: `.
    fn or_internal(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn or_internal(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::Internal(format!("{doing}: {e}")))
    }
}

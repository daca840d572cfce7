//! The outcomes of a call to containerd, and its time limits.

use std::time::Duration;

use crate::model::Error;

/// How long containerd may take to answer a read that its files do not answer.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long containerd may take to answer a write. Then the write fails.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The outcome of a call to containerd.
pub(crate) enum UpstreamOutcome<R> {
    /// containerd answered.
    Answer(R),
    /// containerd answered with an error.
    Refused(Error),
    /// No containerd listens on the socket: the call was not sent.
    NotSent(String),
    /// No answer arrived: containerd may have executed the call or not.
    Indeterminate(String),
}

impl<R> UpstreamOutcome<R> {
    /// The outcome with `map` applied to its answer.
    pub(crate) fn map<S>(self, map: impl FnOnce(R) -> S) -> UpstreamOutcome<S> {
        match self {
            Self::Answer(answer) => UpstreamOutcome::Answer(map(answer)),
            Self::Refused(error) => UpstreamOutcome::Refused(error),
            Self::NotSent(why) => UpstreamOutcome::NotSent(why),
            Self::Indeterminate(why) => UpstreamOutcome::Indeterminate(why),
        }
    }
}

//! The checks of a command before it changes anything. The error of a check says what to do.

use crate::model::Error;

/// A precondition that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// The subject of the check.
    pub(crate) subject: &'static str,
    /// The finding, or the reason against the command and what to do.
    pub(crate) found: Result<String, String>,
}

/// The error after checks, if one of them failed.
pub(crate) fn refusal(checks: &[Check]) -> Option<Error> {
    let failed: Vec<_> =
        checks.iter().filter(|check| check.found.is_err()).map(|check| check.subject).collect();
    (!failed.is_empty()).then(|| {
        Error::FailedPrecondition(format!(
            "nothing was changed: see the lines above about {}",
            failed.join(", ")
        ))
    })
}

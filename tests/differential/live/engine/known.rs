//! Rules for what containerd answers where we answer something else. As narrow as can be: what a rule does not
//! foretell to the letter is a difference.

use std::fmt;

use crate::support::containerd::Version;

/// A range of versions: from the first one on, and before the second.
pub type Versions = (Version, Version);

pub const FIRST: Version = (0, 0, 0);
pub const LAST: Version = (u32::MAX, 0, 0);

/// What containerd answers where we answer something else.
pub struct Known<S, A> {
    pub name: &'static str,
    pub versions: Versions,
    pub reason: &'static str,
    /// The answer due from containerd where we give this one; `None` where the rule says nothing.
    pub due: fn(&S, &A) -> Option<A>,
}

impl<S, A> fmt::Display for Known<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

pub fn within(versions: Versions, version: Version) -> bool {
    versions.0 <= version && version < versions.1
}

/// The rule that foretells exactly `theirs`.
pub fn explains<'k, S, A: PartialEq>(
    rules: &'k [Known<S, A>],
    version: Version,
    step: &S,
    theirs: &A,
    ours: &A,
) -> Option<&'k Known<S, A>> {
    let mut rules = rules.iter().filter(|rule| within(rule.versions, version));
    rules.find(|rule| (rule.due)(step, ours).as_ref() == Some(theirs))
}

//! Names of namespaces: their validation by the rules of containerd's `identifiers` package, which are the
//! same from containerd 1.6 to 2.3.

use std::fmt;

use go_compat::quote::quote;

use super::{Error, Result};

/// Longest name of a namespace in bytes (containerd's error calls them characters).
pub(crate) const MAX_LENGTH: usize = 76;

/// The pattern that containerd's error prints.
const PATTERN: &str = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

/// A valid name of a namespace: 1 to 76 bytes of ASCII, without a slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(String);

impl Namespace {
    /// Parses the namespace from the header of a request.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is missing or empty, `InvalidArgument` if it is malformed.
    pub fn required(header: Option<&str>) -> Result<Self> {
        match header {
            None | Some("") => Err(Error::failed_precondition("namespace is required")),
            Some(name) => Self::parse(name)
                .map_err(|e| Error::InvalidArgument(format!("namespace validation: {e}"))),
        }
    }

    /// Parses a name.
    ///
    /// # Errors
    /// `InvalidArgument` if the name is not an identifier of containerd.
    pub fn parse(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::invalid_argument("identifier must not be empty"));
        }
        if name.len() > MAX_LENGTH {
            return Err(Error::invalid_argument(format_args!(
                "identifier {} greater than maximum length ({MAX_LENGTH} characters)",
                quote(name)
            )));
        }
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric());
        if !name.split(['.', '_', '-']).all(word) {
            return Err(Error::invalid_argument(format_args!(
                "identifier {} must match {PATTERN}",
                quote(name)
            )));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_letters_and_digits_joined_by_one_separator() {
        for name in ["a", "A9", "k8s.io", "a-b_c.d", &"x".repeat(76)] {
            assert_eq!(Namespace::parse(name).unwrap().as_str(), name);
        }
        for name in ["-a", "a-", "a..b", "a.-b", "a/b", "a b", "é", "a\n"] {
            let error = Namespace::required(Some(name)).unwrap_err();
            assert!(error.message().starts_with("namespace validation: identifier \""), "{error}");
            assert!(error.message().ends_with("*$: invalid argument"), "{error}");
        }
    }

    #[test]
    fn length_is_checked_before_form() {
        let error = Namespace::parse(&"-".repeat(77)).unwrap_err();
        assert!(error.message().contains("greater than maximum length (76 characters)"), "{error}");
    }

    #[test]
    fn without_a_name_the_precondition_fails() {
        for header in [None, Some("")] {
            assert_eq!(
                Namespace::required(header),
                Err(Error::FailedPrecondition("namespace is required: failed precondition".into()))
            );
        }
    }
}

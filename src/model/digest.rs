//! Validation of digests by the rules of go-digest 1.0, which containerd 2.3 links.
//!
//! The algorithms sha256, sha384 and sha512 are supported, with lower-case hex of full length. Any other
//! well-formed digest is refused as unsupported. This module computes no hashes.

/// Why a digest is invalid. The sentences are go-digest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// Not of the form `algorithm:encoded`, or not hex.
    #[error("invalid checksum digest format")]
    Format,
    /// The encoded part does not have the length that the algorithm requires.
    #[error("invalid checksum digest length")]
    Length,
    /// Well-formed, but containerd does not support the algorithm.
    #[error("unsupported digest algorithm")]
    Unsupported,
}

/// Validates `digest` as containerd validates the digest of an image's target.
pub(crate) fn validate(digest: &str) -> Result<(), Invalid> {
    let (algorithm, encoded) = digest.split_once(':').ok_or(Invalid::Format)?;
    if algorithm.is_empty() || encoded.is_empty() {
        return Err(Invalid::Format);
    }
    let hex_length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if is_well_formed(algorithm, encoded) => return Err(Invalid::Unsupported),
        _ => return Err(Invalid::Format),
    };
    // go-digest checks the length first: the error for a digest that is too long and not hex is the
    // length.
    if encoded.len() != hex_length {
        return Err(Invalid::Length);
    }
    if !encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Invalid::Format);
    }
    Ok(())
}

/// Checks a digest of an unsupported algorithm: the algorithm is parts of `[a-z0-9]+` joined by one of
/// `.+_-`, the encoded part is `[a-zA-Z0-9=_-]+`.
fn is_well_formed(algorithm: &str, encoded: &str) -> bool {
    let part =
        |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    algorithm.split(['.', '+', '_', '-']).all(part)
        && encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_algorithms_want_lower_case_hex_of_their_length() {
        for (algorithm, length) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let digest = |c: &str, n: usize| format!("{algorithm}:{}", c.repeat(n));
            assert_eq!(validate(&digest("a", length)), Ok(()));
            assert_eq!(validate(&digest("a", length - 1)), Err(Invalid::Length));
            assert_eq!(validate(&digest("a", length + 1)), Err(Invalid::Length));
            assert_eq!(validate(&digest("A", length)), Err(Invalid::Format));
            assert_eq!(validate(&digest("/", length)), Err(Invalid::Format));
            assert_eq!(validate(&digest("/", length + 1)), Err(Invalid::Length));
        }
    }

    #[test]
    fn unknown_algorithms_are_unsupported_when_well_formed() {
        for digest in ["md5:aa", "sha256+b64:aA=_-", "multihash+base58:Qm", "a.b-c_d:0"] {
            assert_eq!(validate(digest), Err(Invalid::Unsupported), "{digest}");
        }
        for digest in
            ["", ":", "x", "sha256", "sha256:", ":aa", "SHA256:aa", "a..b:aa", "md5:a/a", "é:a"]
        {
            assert_eq!(validate(digest), Err(Invalid::Format), "{digest}");
        }
    }
}

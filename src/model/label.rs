//! Validation of labels, and in part of annotations, by the rules of containerd 2.3.

use std::collections::BTreeMap;

use go_compat::quote::quote;
use go_compat::text::lossy;

use super::{Error, Result};

/// Largest size of a label's key and value together, in bytes.
pub const MAX_SIZE: usize = 4096;

/// Bytes of a key that an error shows.
const MAX_SHOWN_KEY_BYTES: usize = 64;

/// Checks the size of every label, in the order of keys.
pub(crate) fn validate_sizes(labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        let size = key.len() + value.len();
        if size > MAX_SIZE {
            // The cut may fall inside a character; containerd's reply then carries U+FFFD.
            let shown =
                key.as_bytes().get(..MAX_SHOWN_KEY_BYTES).map_or(key.as_str().into(), lossy);
            return Err(Error::invalid_argument(format_args!(
                "label key and value length ({size} bytes) greater than maximum size \
                 ({MAX_SIZE} bytes), key: {shown}"
            )));
        }
    }
    Ok(())
}

/// Drops entries with an empty value, as containerd does when it writes a record. Then refuses an empty
/// key. (containerd's bolt store answers code Unknown and "key required" there.)
pub(crate) fn drop_empty(map: &mut BTreeMap<String, String>, field: &str) -> Result<()> {
    map.retain(|_, value| !value.is_empty());
    match map.get("") {
        None => Ok(()),
        Some(value) => Err(empty_key(field, value)),
    }
}

/// Returns the error for an empty key.
pub(crate) fn empty_key(field: &str, value: &str) -> Error {
    Error::invalid_argument(format_args!(
        "{field}: the key of value {} is empty; give it a name or leave it out",
        quote(value)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn size_counts_bytes_of_key_and_value() {
        assert_eq!(validate_sizes(&map(&[("k", &"v".repeat(4095))])), Ok(()));
        assert_eq!(
            validate_sizes(&map(&[("k", &"v".repeat(4096))])).unwrap_err().message(),
            "label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument"
        );
        assert!(validate_sizes(&map(&[("ü", &"v".repeat(4095))])).is_err());
    }

    #[test]
    fn a_long_key_is_shown_cut_to_64_bytes() {
        let error = validate_sizes(&map(&[(&"k".repeat(4097), "")])).unwrap_err();
        assert!(error.message().ends_with(&format!("key: {}: invalid argument", "k".repeat(64))));
        let error = validate_sizes(&map(&[(&format!("k{}", "ü".repeat(2100)), "")])).unwrap_err();
        assert!(error.message().ends_with("ü\u{fffd}: invalid argument"), "{error}");
    }

    #[test]
    fn empty_values_are_dropped_before_an_empty_key_counts() {
        let mut labels = map(&[("", ""), ("a", ""), ("b", "1")]);
        assert_eq!(drop_empty(&mut labels, "image.Labels"), Ok(()));
        assert_eq!(labels, map(&[("b", "1")]));
        let mut labels = map(&[("", "x")]);
        assert!(matches!(
            drop_empty(&mut labels, "image.Labels"),
            Err(Error::InvalidArgument(m)) if m.contains("\"x\"")
        ));
    }
}

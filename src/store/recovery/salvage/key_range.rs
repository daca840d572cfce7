//! Ranges of keys in which records may be missing.

/// The keys from `low` on and before `high`. `None` is no bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyRange {
    /// The first key of the range.
    pub(crate) low: Option<Vec<u8>>,
    /// The first key after the range.
    pub(crate) high: Option<Vec<u8>>,
}

impl KeyRange {
    /// Whether `key` lies in the range.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.low.as_deref().is_none_or(|low| low <= key)
            && self.high.as_deref().is_none_or(|high| key < high)
    }

    /// The range with one key.
    pub(crate) fn of_key(key: &[u8]) -> Self {
        Self { low: Some(key.to_vec()), high: Some([key, &[0]].concat()) }
    }
}

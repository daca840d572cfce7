//! Ranges of keys, for what is missing.

/// The keys from one on and before another, without a bound where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyRange {
    /// The first key.
    pub(crate) low: Option<Vec<u8>>,
    /// The first key behind the range.
    pub(crate) high: Option<Vec<u8>>,
}

impl KeyRange {
    /// Whether `key` lies in the range.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.low.as_deref().is_none_or(|low| low <= key)
            && self.high.as_deref().is_none_or(|high| key < high)
    }

    /// The range of one key.
    pub(crate) fn only(key: &[u8]) -> Self {
        Self { low: Some(key.to_vec()), high: Some([key, &[0]].concat()) }
    }
}

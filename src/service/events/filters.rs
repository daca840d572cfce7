//! The filters of subscriptions, whose memory is bounded for all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::model::filter::Filter;
use crate::model::{Error, Result};

/// The most memory in bytes of the filters of one subscription, and of all filters together. Equal filters
/// count once. Filters up to `MAX_SMALL_FILTER_BYTES` may use the part that larger ones must leave free.
const MAX_FILTER: usize = 2 << 20;
const MAX_LARGE_FILTERS: usize = 4 << 20;
const MAX_FILTERS: usize = 8 << 20;
const MAX_SMALL_FILTER_BYTES: usize = 128 << 10;

/// The filters of all subscriptions. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedFilters(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    filters: HashMap<Arc<[String]>, Weak<SharedFilter>>,
    filter_bytes: usize,
}

/// The filter of all subscriptions with the same filter texts.
#[derive(Debug)]
pub(crate) struct SharedFilter {
    filter: Filter,
    texts: Arc<[String]>,
    bytes: usize,
    all: SharedFilters,
}

impl SharedFilters {
    /// The filter of these texts, if a subscription has it.
    pub(crate) fn known(&self, texts: &[String]) -> Option<Arc<SharedFilter>> {
        self.lock().filters.get(texts)?.upgrade()
    }

    /// Shares a filter with later subscriptions of the same texts.
    pub(crate) fn share(&self, texts: Vec<String>, filter: Filter) -> Result<Arc<SharedFilter>> {
        // The texts are the key of the filter.
        let kept: usize = texts.iter().map(|text| text.len() + size_of::<String>()).sum();
        let bytes = filter.memory() + kept;
        if bytes > MAX_FILTER {
            return Err(Error::ResourceExhausted(format!(
                "the filters of the subscription take {bytes} bytes, at most {MAX_FILTER} are kept: \
                 subscribe with fewer or simpler ones"
            )));
        }
        let limit = if bytes > MAX_SMALL_FILTER_BYTES { MAX_LARGE_FILTERS } else { MAX_FILTERS };
        let texts: Arc<[String]> = texts.into();
        let mut state = self.lock();
        if state.filter_bytes + bytes > limit {
            return Err(Error::ResourceExhausted(
                "the filters of all subscriptions take too much memory: try again later, or with fewer \
                 or simpler filters"
                    .into(),
            ));
        }
        state.filter_bytes += bytes;
        let shared =
            Arc::new(SharedFilter { filter, texts: Arc::clone(&texts), bytes, all: self.clone() });
        state.filters.insert(texts, Arc::downgrade(&shared));
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl SharedFilter {
    /// The filter.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }
}

impl Drop for SharedFilter {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        state.filter_bytes -= self.bytes;
        // A filter that was compiled at the same time may have the same texts.
        if state.filters.get(&self.texts).is_some_and(|known| known.strong_count() == 0) {
            state.filters.remove(&self.texts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pattern: &str) -> Vec<String> {
        vec![format!("topic~=|{pattern}|")]
    }

    fn share(filters: &SharedFilters, pattern: &str) -> Result<Arc<SharedFilter>> {
        let texts = texts(pattern);
        let filter = Filter::parse_all(&texts).unwrap();
        filters.share(texts, filter)
    }

    #[test]
    fn equal_filters_are_stored_once_and_all_are_bounded() {
        let filters = SharedFilters::default();
        let first = share(&filters, "a").unwrap();
        assert!(first.bytes < MAX_SMALL_FILTER_BYTES, "{}", first.bytes);
        assert!(Arc::ptr_eq(&first, &filters.known(&texts("a")).unwrap()));
        drop(first);
        assert!(filters.known(&texts("a")).is_none());
        let mut kept = Vec::new();
        let refused = loop {
            match share(&filters, &format!("(?i)[a-z]{{500}}{}", kept.len())) {
                Ok(filter) => kept.push(filter),
                Err(refused) => break refused,
            }
        };
        assert!(refused.message().contains("all subscriptions"), "{refused}");
        assert!(filters.lock().filter_bytes <= MAX_LARGE_FILTERS);
        let small = share(&filters, "^/images/").unwrap();
        drop((kept, small));
        assert_eq!(filters.lock().filter_bytes, 0);
        let refused = share(&filters, "\\\\pL{200}").unwrap_err();
        assert!(refused.message().contains("fewer or simpler"), "{refused}");
    }
}

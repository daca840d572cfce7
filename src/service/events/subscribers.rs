//! Who subscribes, and what their filters take: bounded for all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::limits::client::Client;
use crate::model::filter::Filter;
use crate::model::{Error, Result};

/// How many subscriptions there may be, and how many one client may have. Each takes some 20 KiB for
/// what is on its way to the client.
const MAX_SUBSCRIPTIONS: usize = 1024;
const MAX_CLIENT_SUBSCRIPTIONS: usize = 128;

/// The memory that the filters of one subscription may take, and those of all together, in bytes. Equal
/// filters are one. Filters up to `SMALL_FILTER` may take what larger ones must leave.
const MAX_FILTER: usize = 2 << 20;
const MAX_LARGE_FILTERS: usize = 6 << 20;
const MAX_FILTERS: usize = 12 << 20;
const SMALL_FILTER: usize = 128 << 10;

/// All subscribers. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Subscribers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    count: usize,
    by_client: HashMap<Client, usize>,
    filters: HashMap<Arc<[String]>, Weak<SharedFilter>>,
    filter_bytes: usize,
}

/// One subscription, until it is dropped.
#[derive(Debug)]
pub struct Admission {
    subscribers: Subscribers,
    client: Client,
}

/// The filter of all subscriptions that have asked for the same.
#[derive(Debug)]
pub struct SharedFilter {
    filter: Filter,
    texts: Arc<[String]>,
    bytes: usize,
    subscribers: Subscribers,
}

impl Subscribers {
    /// One more subscription of that client.
    pub fn admit(&self, client: Client) -> Result<Admission> {
        let mut state = self.lock();
        if state.count >= MAX_SUBSCRIPTIONS {
            return Err(Error::ResourceExhausted(format!(
                "there are {MAX_SUBSCRIPTIONS} subscriptions to events already: try again later"
            )));
        }
        let count = state.by_client.entry(client).or_default();
        if *count >= MAX_CLIENT_SUBSCRIPTIONS {
            return Err(Error::ResourceExhausted(format!(
                "this client has {MAX_CLIENT_SUBSCRIPTIONS} subscriptions to events already: end some"
            )));
        }
        *count += 1;
        state.count += 1;
        Ok(Admission { subscribers: self.clone(), client })
    }

    /// The filter of these texts, if a subscription has it.
    pub fn known(&self, texts: &[String]) -> Option<Arc<SharedFilter>> {
        self.lock().filters.get(texts)?.upgrade()
    }

    /// Shares a filter with subscriptions that will ask for the same.
    pub fn share(&self, texts: Vec<String>, filter: Filter) -> Result<Arc<SharedFilter>> {
        // The texts are kept to be found again.
        let kept: usize = texts.iter().map(|text| text.len() + size_of::<String>()).sum();
        let bytes = filter.memory() + kept;
        if bytes > MAX_FILTER {
            return Err(Error::ResourceExhausted(format!(
                "the filters of the subscription take {bytes} bytes, at most {MAX_FILTER} are kept: \
                 subscribe with fewer or simpler ones"
            )));
        }
        let limit = if bytes > SMALL_FILTER { MAX_LARGE_FILTERS } else { MAX_FILTERS };
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
        let shared = Arc::new(SharedFilter {
            filter,
            texts: Arc::clone(&texts),
            bytes,
            subscribers: self.clone(),
        });
        state.filters.insert(texts, Arc::downgrade(&shared));
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic; a poisoned one is as good as new.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedFilter {
    /// The filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

impl Drop for SharedFilter {
    fn drop(&mut self) {
        let mut state = self.subscribers.lock();
        state.filter_bytes -= self.bytes;
        // One that was made at the same time may be under the same texts.
        if state.filters.get(&self.texts).is_some_and(|known| known.strong_count() == 0) {
            state.filters.remove(&self.texts);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.subscribers.lock();
        state.count -= 1;
        if let Some(count) = state.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                state.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pattern: &str) -> Vec<String> {
        vec![format!("topic~=|{pattern}|")]
    }

    fn share(subscribers: &Subscribers, pattern: &str) -> Result<Arc<SharedFilter>> {
        let texts = texts(pattern);
        let filter = Filter::parse_all(&texts).unwrap();
        subscribers.share(texts, filter)
    }

    #[test]
    fn one_client_does_not_take_all_subscriptions() {
        let subscribers = Subscribers::default();
        let mut all: Vec<_> = (0..MAX_CLIENT_SUBSCRIPTIONS)
            .map(|_| subscribers.admit(Client::Process(1)).unwrap())
            .collect();
        let refused = subscribers.admit(Client::Process(1)).unwrap_err();
        assert!(matches!(refused, Error::ResourceExhausted(_)));
        all.push(subscribers.admit(Client::Process(2)).unwrap());
        all.truncate(1);
        subscribers.admit(Client::Process(1)).unwrap();
    }

    #[test]
    fn equal_filters_are_one_and_all_are_bounded() {
        let subscribers = Subscribers::default();
        let first = share(&subscribers, "a").unwrap();
        assert!(first.bytes < SMALL_FILTER, "{}", first.bytes);
        assert!(Arc::ptr_eq(&first, &subscribers.known(&texts("a")).unwrap()));
        drop(first);
        assert!(subscribers.known(&texts("a")).is_none());
        let mut kept = Vec::new();
        let refused = loop {
            match share(&subscribers, &format!("(?i)[a-z]{{500}}{}", kept.len())) {
                Ok(filter) => kept.push(filter),
                Err(refused) => break refused,
            }
        };
        assert!(refused.message().contains("all subscriptions"), "{refused}");
        assert!(subscribers.lock().filter_bytes <= MAX_LARGE_FILTERS);
        let small = share(&subscribers, "^/images/").unwrap();
        drop((kept, small));
        assert_eq!(subscribers.lock().filter_bytes, 0);
        let refused = share(&subscribers, "\\\\pL{200}").unwrap_err();
        assert!(refused.message().contains("fewer or simpler"), "{refused}");
    }
}

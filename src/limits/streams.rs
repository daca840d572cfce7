//! Limits on open streams: subscriptions to events and watches of the catalogue. A stream takes memory as
//! long as its client keeps it open. There are three limits: on the streams of all clients together, on the
//! streams of one client, and on the subscriptions of one client.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::client::Client;
use crate::model::{Error, Result};

/// The most streams of all clients together. A stream takes about 20 KiB for bytes that are being sent. This
/// limit is above [`MAX_CLIENT_STREAMS`], so that one client cannot take all streams.
const MAX_STREAMS: usize = 1120;

/// The most streams of one client.
const MAX_CLIENT_STREAMS: usize = 1000;

/// The most subscriptions of one client, which count as streams too. A subscription queues events.
const MAX_CLIENT_SUBSCRIPTIONS: usize = 128;

/// The method that opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamKind {
    /// Events/Subscribe.
    Subscription,
    /// Catalog/Watch.
    Watch,
}

/// Counts the open streams of each client and kind. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<HashMap<(Client, StreamKind), usize>>>);

/// The slot of one open stream. Dropping the value frees the slot.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    streams: Streams,
    key: (Client, StreamKind),
}

impl Streams {
    /// Takes a slot for a new stream of `client`.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` if the limit on all streams, on this client's streams, or on its subscriptions is
    /// reached.
    pub(crate) fn admit(&self, client: Client, kind: StreamKind) -> Result<StreamSlot> {
        let mut counts = self.0.lock();
        if counts.values().sum::<usize>() >= MAX_STREAMS {
            return Err(Error::ResourceExhausted(format!(
                "there are {MAX_STREAMS} subscriptions and watches already: try again later"
            )));
        }
        let count = |kind| counts.get(&(client, kind)).copied().unwrap_or_default();
        let subscriptions = count(StreamKind::Subscription);
        if subscriptions + count(StreamKind::Watch) >= MAX_CLIENT_STREAMS {
            return Err(Error::ResourceExhausted(format!(
                "this client has {MAX_CLIENT_STREAMS} subscriptions and watches already: end some"
            )));
        }
        if kind == StreamKind::Subscription && subscriptions >= MAX_CLIENT_SUBSCRIPTIONS {
            return Err(Error::ResourceExhausted(format!(
                "this client has {MAX_CLIENT_SUBSCRIPTIONS} subscriptions to events already: end some"
            )));
        }
        *counts.entry((client, kind)).or_default() += 1;
        Ok(StreamSlot { streams: self.clone(), key: (client, kind) })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Client = Client::Process(1);
    const OTHER: Client = Client::Process(2);

    #[test]
    fn one_client_does_not_take_all_streams() {
        let streams = Streams::default();
        let admit = |client, kind| streams.admit(client, kind);
        let mut subscriptions: Vec<_> = (0..MAX_CLIENT_SUBSCRIPTIONS)
            .map(|_| admit(ONE, StreamKind::Subscription).unwrap())
            .collect();
        let refused = admit(ONE, StreamKind::Subscription).unwrap_err();
        assert!(refused.message().contains("subscriptions to events"), "{refused}");
        let watches: Vec<_> = (MAX_CLIENT_SUBSCRIPTIONS..MAX_CLIENT_STREAMS)
            .map(|_| admit(ONE, StreamKind::Watch).unwrap())
            .collect();
        let refused = admit(ONE, StreamKind::Watch).unwrap_err();
        assert!(matches!(refused, Error::ResourceExhausted(_)));
        assert!(refused.message().contains("subscriptions and watches"), "{refused}");
        admit(OTHER, StreamKind::Subscription).unwrap();
        subscriptions.pop();
        admit(ONE, StreamKind::Watch).unwrap();
        drop((subscriptions, watches));
        assert!(streams.0.lock().is_empty());
    }

    #[test]
    fn all_streams_have_one_limit() {
        let streams = Streams::default();
        let slots: Vec<_> = (0..)
            .map_while(|n| streams.admit(Client::Process(n), StreamKind::Watch).ok())
            .collect();
        assert_eq!(slots.len(), MAX_STREAMS);
        let refused = streams.admit(Client::Process(-1), StreamKind::Subscription).unwrap_err();
        assert!(refused.message().contains("try again later"), "{refused}");
        drop(slots);
        streams.admit(ONE, StreamKind::Subscription).unwrap();
    }
}

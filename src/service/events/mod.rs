//! Events: changes of images and namespaces, and events that clients publish, for all subscribers.
//!
//! The service sends the event of a change after the commit, in the order of commits. It keeps no
//! events: a later subscriber does not see earlier ones. The writer thread never waits for a subscriber. The
//! stream of a subscriber that reads too slowly ends with the number of events that it missed.
//!
//! - [`event`]: one event; [`queue`]: the events that wait for subscribers
//! - [`filters`]: the filters that subscriptions share; [`subscription`]: one subscription
//!
//! Topics, type URLs and checks are containerd's (`core/events/exchange`, 2.3).

pub(crate) mod event;
mod filters;
mod queue;
pub(crate) mod subscription;

use std::collections::BTreeMap;

use event::Event;
use filters::SharedFilters;
use go_compat::quote::quote;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use queue::Queue;
use subscription::Subscription;

use super::pool::Pool;
use crate::api::ApiMessage;
use crate::api::event::Envelope;
use crate::api::image_events::{ImageCreate, ImageDelete, ImageUpdate};
use crate::api::namespace_events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use crate::clock;
use crate::limits::client::Client;
use crate::limits::streams::{StreamKind, Streams};
use crate::log_throttle::throttled_log;
use crate::model::filter::Filter;
use crate::model::{Error, Namespace, Result, image};
use crate::service::cancel::Cancel;
use crate::service::codec::encode;

/// The most bytes of an event.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// The first second of year 1.
const GO_ZERO: i64 = -62_135_596_800;

/// Labels of an image or a namespace.
pub(crate) type Labels = BTreeMap<String, String>;

/// An event that this service makes itself.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub(crate) enum OwnEvent {
    ImageCreated { name: String, labels: Labels },
    ImageUpdated { name: String, labels: Labels },
    ImageDeleted { name: String },
    NamespaceCreated { name: String, labels: Labels },
    NamespaceUpdated { name: String, labels: Labels },
    NamespaceDeleted { name: String },
}

impl OwnEvent {
    /// The topic, and the event.
    fn into_envelope_parts(self) -> Result<(&'static str, Any)> {
        Ok(match self {
            Self::ImageCreated { name, labels } => {
                ("/images/create", any(&ImageCreate { name, labels, ..Default::default() })?)
            }
            Self::ImageUpdated { name, labels } => {
                ("/images/update", any(&ImageUpdate { name, labels, ..Default::default() })?)
            }
            Self::ImageDeleted { name } => {
                ("/images/delete", any(&ImageDelete { name, ..Default::default() })?)
            }
            Self::NamespaceCreated { name, labels } => (
                "/namespaces/create",
                any(&NamespaceCreate { name, labels, ..Default::default() })?,
            ),
            Self::NamespaceUpdated { name, labels } => (
                "/namespaces/update",
                any(&NamespaceUpdate { name, labels, ..Default::default() })?,
            ),
            Self::NamespaceDeleted { name } => {
                ("/namespaces/delete", any(&NamespaceDelete { name, ..Default::default() })?)
            }
        })
    }
}

/// An Any as containerd writes it: the type URL is the bare name.
fn any<M: ApiMessage>(message: &M) -> Result<Any> {
    let type_url = M::LAYOUT.name.to_owned();
    Ok(Any { type_url, value: encode(message)?, ..Any::default() })
}

/// The exchange: it takes events and has subscribers. Clones are the same exchange.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    queue: Queue,
    filters: SharedFilters,
    streams: Streams,
}

impl Exchange {
    /// The open streams: subscriptions, and watches of the catalogue.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Sends an event of a namespace with the current time. The change is made already, so a failure goes to
    /// the log only.
    pub(crate) fn emit(&self, namespace: &Namespace, happened: OwnEvent) {
        let sent = happened.into_envelope_parts().and_then(|(topic, event)| {
            self.send(Envelope {
                timestamp: Some(clock::record_time()).into(),
                namespace: namespace.to_string(),
                topic: topic.to_owned(),
                event: Some(event).into(),
                ..Envelope::default()
            })
        });
        if let Err(e) = sent {
            throttled_log!(Warn, "an event of namespace {namespace} is not sent: {e}");
        }
    }

    /// Sends the event of a client in the namespace of its call, with the current time.
    pub fn publish(
        &self,
        namespace: &Namespace,
        topic: &str,
        event: MessageField<Any>,
    ) -> Result<()> {
        check_topic(topic)?;
        self.send(Envelope {
            timestamp: Some(clock::record_time()).into(),
            namespace: namespace.to_string(),
            topic: topic.to_owned(),
            event,
            ..Envelope::default()
        })
    }

    /// Sends an event from another exchange as it is.
    pub fn forward(&self, mut envelope: Envelope) -> Result<()> {
        Namespace::parse(&envelope.namespace).map_err(|e| {
            Error::InvalidArgument(format!("event envelope has invalid namespace: {e}"))
        })?;
        check_topic(&envelope.topic)?;
        // As in containerd, a missing time is the Unix epoch, and Go's zero time counts as missing.
        let time = image::normalize_timestamp(&envelope.timestamp);
        if (time.seconds, time.nanos) == (GO_ZERO, 0) {
            return Err(Error::invalid_argument("timestamp must be set on forwarded event"));
        }
        envelope.timestamp = Some(time).into();
        self.send(envelope)
    }

    fn send(&self, envelope: Envelope) -> Result<()> {
        let message = encode(&envelope)?;
        if message.len() > MAX_EVENT_BYTES {
            return Err(Error::ResourceExhausted(format!(
                "the event has {} bytes, at most {MAX_EVENT_BYTES} are sent",
                message.len()
            )));
        }
        self.queue.push(|| Event::new(envelope, message));
        Ok(())
    }

    /// Subscribes to the events from now on that match any of the filters; without filters to all events. The
    /// `pool` matches them.
    pub async fn subscribe(
        &self,
        pool: &Pool,
        client: Client,
        filters: Vec<String>,
    ) -> Result<Subscription> {
        let slot = self.streams.admit(client, StreamKind::Subscription)?;
        let filter = match self.filters.known(&filters) {
            Some(known) => known,
            None => {
                let texts = filters.clone();
                let filter = pool.run(client, move |cancel| filter(&texts, cancel)).await?;
                self.filters.share(filters, filter)?
            }
        };
        let (pool, cursor) = (pool.clone(), self.queue.subscribe());
        Ok(Subscription { pool, client, filter, cursor, current: None, _slot: slot })
    }
}

fn filter(texts: &[String], mut cancel: Cancel) -> Result<Filter> {
    cancel.compile(texts, |texts| {
        Filter::parse(texts).map_err(|e| {
            // containerd gives the errors of a stream no code.
            Error::Unknown(format!(
                "subscription error: failed parsing subscription filters: {}",
                Error::invalid_argument(e)
            ))
        })
    })
}

/// A topic is a path of identifiers: `/images/create`.
fn check_topic(topic: &str) -> Result<()> {
    let refused =
        |why: String| Error::InvalidArgument(format!("envelope topic {}: {why}", quote(topic)));
    let invalid = |why: &str| refused(format!("{why}: invalid argument"));
    match topic.strip_prefix('/') {
        _ if topic.is_empty() => Err(invalid("must not be empty")),
        None => Err(invalid("must start with '/'")),
        Some("") => Err(invalid("must have at least one component")),
        Some(path) => path.split('/').try_for_each(|component| {
            Namespace::parse(component).map(drop).map_err(|e| {
                refused(format!("failed validation on component {}: {e}", quote(component)))
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;
    use protobuf::well_known_types::timestamp::Timestamp;

    fn created(name: &str) -> OwnEvent {
        OwnEvent::ImageCreated { name: name.into(), labels: [("a.b".into(), "c".into())].into() }
    }

    fn ns() -> Namespace {
        Namespace::parse("n").unwrap()
    }

    async fn subscribe(exchange: &Exchange, filter: &str) -> Result<Subscription> {
        exchange.subscribe(&Pool::new(), Client::Own, vec![filter.to_owned()]).await
    }

    /// The next event, put together from its pieces.
    async fn next(subscription: &mut Subscription) -> Result<Envelope> {
        let first = subscription.next().await?;
        let (total, mut bytes) = (first.total.unwrap(), first.bytes);
        while bytes.len() < total {
            let piece = subscription.next().await?;
            assert!(piece.total.is_none() && piece.bytes.len() <= subscription::MAX_PIECE);
            bytes.extend(piece.bytes);
        }
        Ok(Envelope::parse_from_bytes(&bytes).unwrap())
    }

    #[tokio::test]
    async fn subscribers_get_the_events_that_match_their_filters() {
        let exchange = Exchange::default();
        let last = "topic==\"/last\"";
        for (filter, matches) in [
            ("", true),
            ("topic==\"/images/create\"", true),
            ("event.name==i", true),
            ("event.labels.a.b==c", true),
            ("namespace==n,topic~=|^/im|", true),
            ("topic==\"/images/delete\"", false),
            ("namespace==m", false),
            ("event.name==j", false),
            ("timestamp", false),
        ] {
            let filters = vec![filter.to_owned(), last.to_owned()];
            let mut events = exchange.subscribe(&Pool::new(), Client::Own, filters).await.unwrap();
            exchange.emit(&ns(), created("i"));
            exchange.publish(&ns(), "/last", MessageField::none()).unwrap();
            let event = next(&mut events).await.unwrap();
            if matches {
                assert_eq!(event.namespace, "n");
                assert_eq!(event.topic, "/images/create", "{filter}");
                assert_eq!(event.event.type_url, "containerd.services.images.v1.ImageCreate");
            } else {
                assert_eq!(event.topic, "/last", "{filter}");
            }
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_of_missed_events_and_delays_no_other() {
        let exchange = Exchange::default();
        let mut slow = subscribe(&exchange, "").await.unwrap();
        for _ in 0..queue::MAX_EVENTS + 10 {
            exchange.emit(&ns(), created("i"));
        }
        let error = slow.next().await.unwrap_err();
        assert!(error.message().starts_with("10 events were missed"), "{error}");
    }

    #[tokio::test]
    async fn a_subscriber_that_stops_in_an_event_gets_the_rest_of_it() {
        let exchange = Exchange::default();
        let mut slow = subscribe(&exchange, "").await.unwrap();
        exchange.emit(&ns(), created(&"i".repeat(60_000)));
        let first = slow.next().await.unwrap();
        assert_eq!(first.bytes.len(), subscription::MAX_PIECE);
        for _ in 0..2000 {
            exchange.emit(&ns(), created(&"i".repeat(60_000)));
        }
        let mut got = first.bytes.len();
        while got < first.total.unwrap() {
            got += slow.next().await.unwrap().bytes.len();
        }
        assert!(slow.next().await.unwrap_err().message().contains("events were missed"));
    }

    /// Letters in an order on which no automaton comes to rest.
    fn busy(length: u64) -> String {
        let bit = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
        (0..length).map(|n| if bit(n) == 0 { 'a' } else { 'b' }).collect()
    }

    #[tokio::test]
    async fn filters_that_take_too_long_end_their_subscription() {
        let exchange = Exchange::default();
        let mut slow = subscribe(&exchange, "event.name~=/a[ab]{999}[c-z]/").await.unwrap();
        let mut other = subscribe(&exchange, "topic~=/images/").await.unwrap();
        exchange.emit(&ns(), created(&busy(60_000)));
        let ended = slow.next().await.unwrap_err();
        assert!(
            matches!(&ended, Error::ResourceExhausted(m) if m.contains("for one event")),
            "{ended}"
        );
        assert_eq!(next(&mut other).await.unwrap().topic, "/images/create");
    }

    #[test]
    fn topics_are_checked() {
        let exchange = Exchange::default();
        for (topic, why) in [
            ("", "envelope topic \"\": must not be empty: invalid argument"),
            ("a", "envelope topic \"a\": must start with '/': invalid argument"),
            ("/", "envelope topic \"/\": must have at least one component: invalid argument"),
        ] {
            let refused = exchange.publish(&ns(), topic, MessageField::none()).unwrap_err();
            assert_eq!(refused.message(), why);
        }
        assert!(exchange.publish(&ns(), "/a//b", MessageField::none()).is_err());
        exchange.publish(&ns(), "/a/b", MessageField::none()).unwrap();
    }

    #[tokio::test]
    async fn a_forwarded_time_is_carried_as_go_does_and_unset_is_1970() {
        let exchange = Exchange::default();
        let mut all = subscribe(&exchange, "").await.unwrap();
        let mut forward = async |time: Option<(i64, i32)>| {
            let time =
                time.map(|(seconds, nanos)| Timestamp { seconds, nanos, ..Timestamp::new() });
            exchange.forward(Envelope {
                namespace: "n".into(),
                topic: "/a".into(),
                timestamp: time.into(),
                ..Envelope::default()
            })?;
            let time = next(&mut all).await?.timestamp.unwrap();
            Ok::<_, Error>((time.seconds, time.nanos))
        };
        assert_eq!(forward(None).await, Ok((0, 0)));
        assert_eq!(forward(Some((5, -1))).await, Ok((4, 999_999_999)));
        let refused = forward(Some((GO_ZERO + 1, -1_000_000_000))).await.unwrap_err();
        assert_eq!(refused.message(), "timestamp must be set on forwarded event: invalid argument");
        assert_eq!(forward(Some((GO_ZERO, 1))).await, Ok((GO_ZERO, 1)));
    }

    #[tokio::test]
    async fn filters_know_the_fields_of_images_and_namespaces_only() {
        let exchange = Exchange::default();
        let filters = vec!["event.id==i".to_owned(), "topic==\"/b\"".to_owned()];
        let mut named = exchange.subscribe(&Pool::new(), Client::Own, filters).await.unwrap();
        let event = Any {
            type_url: "containerd.events.ContainerDelete".into(),
            value: b"\x0a\x01i".to_vec(),
            ..Any::default()
        };
        exchange.publish(&ns(), "/a", Some(event).into()).unwrap();
        exchange.publish(&ns(), "/b", MessageField::none()).unwrap();
        assert_eq!(next(&mut named).await.unwrap().topic, "/b");
    }

    #[tokio::test]
    async fn a_subscription_with_a_wrong_filter_has_no_code() {
        let refused = subscribe(&Exchange::default(), "==").await.unwrap_err();
        assert!(
            matches!(&refused, Error::Unknown(m)
                if m.starts_with("subscription error: failed parsing subscription filters: ")),
            "{refused:?}"
        );
    }

    #[test]
    fn an_event_that_is_too_large_is_refused() {
        let large = Any { value: vec![0; MAX_EVENT_BYTES], ..Any::default() };
        let refused = Exchange::default().publish(&ns(), "/a", Some(large).into()).unwrap_err();
        assert!(matches!(refused, Error::ResourceExhausted(_)));
    }
}

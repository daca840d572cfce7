//! Events: what happened to images and namespaces, and what others publish, to all who subscribe.
//!
//! An event is sent after the commit of the change it tells of, in the order of commits. It is not
//! kept: who subscribes later does not see it. A subscriber that reads too slowly loses its place:
//! it is told how many events it missed, and its stream ends; a writer never waits for it.
//!
//! Topics, type URLs and checks are containerd's (`core/events/exchange`, 2.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::broadcast;

use super::message::encode;
use crate::api::event::Envelope;
use crate::api::image_events::{ImageCreate, ImageDelete, ImageUpdate};
use crate::api::namespace_events::{NamespaceCreate, NamespaceDelete, NamespaceUpdate};
use crate::clock;
use crate::model::filter::{Fields, Filter};
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};

/// So many events may wait for the slowest subscriber.
const WAITING: usize = 1024;

/// The most bytes of an event: with those that wait, 64 MiB.
const LARGEST: usize = 64 << 10;

/// The first second of year 1.
const GO_ZERO: i64 = -62_135_596_800;

/// Labels of an image or a namespace.
pub type Labels = BTreeMap<String, String>;

/// What happened, as this service tells it itself.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Happened {
    ImageCreated { name: String, labels: Labels },
    ImageUpdated { name: String, labels: Labels },
    ImageDeleted { name: String },
    NamespaceCreated { name: String, labels: Labels },
    NamespaceUpdated { name: String, labels: Labels },
    NamespaceDeleted { name: String },
}

impl Happened {
    /// Its topic, and the event itself.
    fn told(self) -> Result<(&'static str, Any)> {
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
fn any<M: protobuf::MessageFull>(message: &M) -> Result<Any> {
    let type_url = M::descriptor().full_name().to_owned();
    Ok(Any { type_url, value: encode(message)?, ..Any::default() })
}

/// Where events are handed in and subscribed to. Clones are the same exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self { sender: broadcast::channel(WAITING).0 }
    }
}

impl Exchange {
    /// Tells what happened in a namespace, now. It did happen: what cannot be told goes to the log.
    pub fn tell(&self, namespace: &Namespace, happened: Happened) {
        let sent = happened.told().and_then(|(topic, event)| {
            self.send(Envelope {
                timestamp: Some(clock::record_time()).into(),
                namespace: namespace.to_string(),
                topic: topic.to_owned(),
                event: Some(event).into(),
                ..Envelope::default()
            })
        });
        if let Err(e) = sent {
            log::warn!("an event of namespace {namespace} is not sent: {e}");
        }
    }

    /// Sends a client's event, in the namespace of its call, with the time of now.
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

    /// Sends an event of elsewhere as it is.
    pub fn forward(&self, mut envelope: Envelope) -> Result<()> {
        Namespace::parse(&envelope.namespace).map_err(|e| {
            Error::InvalidArgument(format!("event envelope has invalid namespace: {e}"))
        })?;
        check_topic(&envelope.topic)?;
        // One that is not set is the epoch's beginning, as in containerd; Go's own beginning of
        // time is what counts as not set.
        let time = image::normal_time(&envelope.timestamp);
        if (time.seconds, time.nanos) == (GO_ZERO, 0) {
            return Err(Error::invalid_argument("timestamp must be set on forwarded event"));
        }
        envelope.timestamp = Some(time).into();
        self.send(envelope)
    }

    fn send(&self, envelope: Envelope) -> Result<()> {
        let message = encode(&envelope)?;
        if message.len() > LARGEST {
            return Err(Error::ResourceExhausted(format!(
                "the event has {} bytes, at most {LARGEST} are sent",
                message.len()
            )));
        }
        // Without a subscriber nobody wants it.
        let _ = self.sender.send(Arc::new(Event::new(envelope, message)));
        Ok(())
    }

    /// The events from now on that match any of the filters; without filters all.
    pub fn subscribe(&self, filters: &[String]) -> Result<Subscription> {
        let filter = Filter::parse_all(filters).map_err(|e| {
            // Of a stream's errors containerd tells no code.
            Error::Unknown(format!(
                "subscription error: failed parsing subscription filters: {}",
                Error::invalid_argument(e)
            ))
        })?;
        Ok(Subscription { filter, receiver: self.sender.subscribe() })
    }
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

/// Events for one subscriber.
#[derive(Debug)]
pub struct Subscription {
    filter: Filter,
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Subscription {
    /// The next event, an encoded `Envelope`. An error is the last item.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if self.filter.matches(&*event) => return Ok(event.message.clone()),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Err(Error::ResourceExhausted(format!(
                        "{missed} events were missed, as earlier ones were not read in time: \
                         subscribe again and list what matters"
                    )));
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(Error::Unavailable("the daemon is stopping".into()));
                }
            }
        }
    }
}

/// An event on its way, encoded, with what filters may ask of it.
#[derive(Debug)]
struct Event {
    message: Vec<u8>,
    namespace: String,
    topic: String,
    /// Of the kinds of events that are known here.
    name: String,
    labels: Labels,
}

impl Event {
    fn new(envelope: Envelope, message: Vec<u8>) -> Self {
        let (name, labels) = named(&envelope.event).unwrap_or_default();
        Self { message, namespace: envelope.namespace, topic: envelope.topic, name, labels }
    }
}

fn named(event: &Any) -> Option<(String, Labels)> {
    let known = [
        "containerd.services.images.v1.ImageCreate",
        "containerd.services.images.v1.ImageUpdate",
        "containerd.services.images.v1.ImageDelete",
        "containerd.events.NamespaceCreate",
        "containerd.events.NamespaceUpdate",
        "containerd.events.NamespaceDelete",
    ];
    // A type URL may have a host before it.
    let name = event.type_url.rsplit('/').next()?;
    if !known.contains(&name) {
        return None;
    }
    // They all have the fields of this one, or fewer, under the same numbers.
    let event = ImageCreate::parse_from_bytes(&event.value).ok()?;
    Some((event.name, event.labels))
}

impl Fields for Event {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        let (first, rest) = path.split_first()?;
        match (first.as_slice(), rest) {
            (b"namespace", _) => image::present(&self.namespace),
            (b"topic", _) => image::present(&self.topic),
            (b"event", [what, rest @ ..]) => match what.as_slice() {
                b"name" => image::present(&self.name),
                b"labels" => image::entry(&self.labels, rest),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use protobuf::well_known_types::timestamp::Timestamp;

    fn created(name: &str) -> Happened {
        Happened::ImageCreated { name: name.into(), labels: [("a.b".into(), "c".into())].into() }
    }

    fn ns() -> Namespace {
        Namespace::parse("n").unwrap()
    }

    #[test]
    fn subscribers_get_what_they_asked_for() {
        let exchange = Exchange::default();
        let subscribe = |filter: &str| exchange.subscribe(&[filter.to_owned()]).unwrap();
        let mut matching = [
            "",
            "topic==\"/images/create\"",
            "event.name==i",
            "event.labels.a.b==c",
            "namespace==n,topic~=|^/im|",
        ]
        .map(subscribe);
        let mut others =
            ["topic==\"/images/delete\"", "namespace==m", "event.name==j", "timestamp"]
                .map(subscribe);
        exchange.tell(&ns(), created("i"));
        for subscription in &mut matching {
            let event =
                Envelope::parse_from_bytes(&subscription.next().now_or_never().unwrap().unwrap())
                    .unwrap();
            assert_eq!((event.namespace.as_str(), event.topic.as_str()), ("n", "/images/create"));
            assert_eq!(event.event.type_url, "containerd.services.images.v1.ImageCreate");
        }
        for subscription in &mut others {
            assert!(subscription.next().now_or_never().is_none());
        }
    }

    #[test]
    fn a_slow_subscriber_is_told_and_holds_nobody_up() {
        let exchange = Exchange::default();
        let mut slow = exchange.subscribe(&[]).unwrap();
        for _ in 0..WAITING + 10 {
            exchange.tell(&ns(), created("i"));
        }
        let told = slow.next().now_or_never().unwrap().unwrap_err();
        assert!(told.message().starts_with("10 events were missed"), "{told}");
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

    #[test]
    fn a_forwarded_time_is_carried_as_go_does_and_unset_is_1970() {
        let exchange = Exchange::default();
        let mut all = exchange.subscribe(&[]).unwrap();
        let mut forward = |time: Option<(i64, i32)>| {
            let time =
                time.map(|(seconds, nanos)| Timestamp { seconds, nanos, ..Timestamp::new() });
            exchange.forward(Envelope {
                namespace: "n".into(),
                topic: "/a".into(),
                timestamp: time.into(),
                ..Envelope::default()
            })?;
            let sent = all.next().now_or_never().unwrap()?;
            let time = Envelope::parse_from_bytes(&sent).unwrap().timestamp.unwrap();
            Ok::<_, Error>((time.seconds, time.nanos))
        };
        assert_eq!(forward(None), Ok((0, 0)));
        assert_eq!(forward(Some((5, -1))), Ok((4, 999_999_999)));
        let refused = forward(Some((GO_ZERO + 1, -1_000_000_000))).unwrap_err();
        assert_eq!(refused.message(), "timestamp must be set on forwarded event: invalid argument");
        assert_eq!(forward(Some((GO_ZERO, 1))), Ok((GO_ZERO, 1)));
    }

    #[test]
    fn a_type_url_may_have_a_host() {
        let event = any(&ImageDelete { name: "i".into(), ..Default::default() }).unwrap();
        let hosted = Any { type_url: format!("types.example.com/{}", event.type_url), ..event };
        assert_eq!(named(&hosted).unwrap().0, "i");
    }

    #[test]
    fn filters_know_the_fields_of_images_and_namespaces_only() {
        let exchange = Exchange::default();
        let mut named = exchange.subscribe(&["event.id==i".to_owned()]).unwrap();
        let mut all = exchange.subscribe(&["topic==\"/a\"".to_owned()]).unwrap();
        let event = Any {
            type_url: "containerd.events.ContainerDelete".into(),
            value: b"\x0a\x01i".to_vec(),
            ..Any::default()
        };
        exchange.publish(&ns(), "/a", Some(event).into()).unwrap();
        assert!(named.next().now_or_never().is_none());
        assert!(all.next().now_or_never().is_some());
    }

    #[test]
    fn a_subscription_with_a_wrong_filter_has_no_code() {
        let refused = Exchange::default().subscribe(&["==".to_owned()]).unwrap_err();
        assert!(
            matches!(&refused, Error::Unknown(m)
                if m.starts_with("subscription error: failed parsing subscription filters: ")),
            "{refused:?}"
        );
    }

    #[test]
    fn an_event_that_is_too_large_is_refused() {
        let large = Any { value: vec![0; LARGEST], ..Any::default() };
        let refused = Exchange::default().publish(&ns(), "/a", Some(large).into()).unwrap_err();
        assert!(matches!(refused, Error::ResourceExhausted(_)));
    }
}

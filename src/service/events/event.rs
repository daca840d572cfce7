//! An encoded event, with the fields that filters match.

use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::api::event::Envelope;
use crate::api::image_events::ImageCreate;
use crate::model::filter::Fields;
use crate::model::image::encoded::Encoded;
use crate::model::image::{self, Image};
use crate::service::codec::encode;

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    message: Vec<u8>,
    namespace: String,
    topic: String,
    /// The name and labels of a known kind of event, encoded as an image without other fields. Small labels
    /// take twenty times as much memory when they are decoded.
    named: Vec<u8>,
}

impl Event {
    /// The event of an envelope. `message` is the encoded envelope.
    pub(crate) fn new(envelope: Envelope, message: Vec<u8>) -> Self {
        let named = indexed_fields(&envelope.event).unwrap_or_default();
        Self { message, namespace: envelope.namespace, topic: envelope.topic, named }
    }

    /// The encoded `Envelope`.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The memory of the event, in bytes.
    pub(crate) fn size(&self) -> usize {
        let Self { message, namespace, topic, named } = self;
        size_of::<Self>() + message.len() + namespace.len() + topic.len() + named.len()
    }
}

fn indexed_fields(event: &Any) -> Option<Vec<u8>> {
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
    // All kinds have the fields of this one, or fewer, under the same numbers.
    let event = ImageCreate::parse_from_bytes(&event.value).ok()?;
    encode(&Image { name: event.name, labels: event.labels, ..Image::default() }).ok()
}

impl Fields for Event {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        let (first, rest) = path.split_first()?;
        match (first.as_slice(), rest) {
            (b"namespace", _) => image::non_empty(&self.namespace),
            (b"topic", _) => image::non_empty(&self.topic),
            (b"event", [what, rest @ ..]) => match what.as_slice() {
                b"name" => {
                    Encoded::new(&self.named).map(|e| e.name()).filter(|name| !name.is_empty())
                }
                b"labels" => {
                    let key = rest.join(&b'.');
                    let mut labels = Encoded::new(&self.named)?.labels();
                    labels.find(|(known, _)| *known == key).map(|(_, value)| value)
                }
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::any;
    use super::*;
    use crate::api::image_events::ImageDelete;

    #[test]
    fn a_type_url_may_have_a_host() {
        let event = any(&ImageDelete { name: "i".into(), ..Default::default() }).unwrap();
        let hosted = Any { type_url: format!("types.example.com/{}", event.type_url), ..event };
        assert_eq!(Image::parse_from_bytes(&indexed_fields(&hosted).unwrap()).unwrap().name, "i");
    }

    #[test]
    fn an_event_is_counted_with_its_labels() {
        let labels: super::super::Labels =
            (0..9_000).map(|n| (n.to_string(), "v".into())).collect();
        let created = any(&ImageCreate { labels, ..Default::default() }).unwrap();
        let envelope = Envelope { event: Some(created).into(), ..Default::default() };
        let message = envelope.write_to_bytes().unwrap();
        let bytes = message.len();
        assert!(bytes > 90_000);
        // The labels are in the message, and once more for filters.
        assert!(Event::new(envelope, message).size() > bytes * 19 / 10);
    }
}

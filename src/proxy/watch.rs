//! Following containerd's events: what changes behind our back arrives here.
//!
//! An event is only a hint that a record changed: the record is read again under its lock, so our
//! own writes come back as nothing to do. While events come in without a gap, namespaces can be
//! current; a gap puts all in doubt, and its end has all read again.
//!
//! containerd does not say when a subscription is in place. So an event of our own is published
//! until it comes back (topic `/lmdb-images/following`): the one thing that containerd is sent
//! unasked. Nothing of it is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protobuf::CodedInputStream;
use protobuf::rt::WireType;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::Semaphore;
use tonic::{Status, Streaming};

use crate::api::event::Envelope;
use crate::api::events::{PublishRequest, SubscribeRequest};
use crate::model::Namespace;
use crate::proxy::images::{Found, ProxyImages};

/// The first and the longest wait before containerd is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often the mark is published until it comes back.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How often all namespaces are read again, for what nobody knows to have been missed.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// The longest name of an image, in bytes: a key of containerd's bolt file has no more.
const MAX_NAME_BYTES: usize = 32 << 10;

/// Records read at a time because of events.
const MAX_CONCURRENT: usize = 16;

const PROBE_TOPIC: &str = "/lmdb-images/following";

/// Follows for ever: connects, follows, and again.
pub async fn run(front: ProxyImages) {
    let mut wait = RETRY.0;
    let mut said = false;
    loop {
        match subscribe(&front).await {
            Ok(events) => {
                (wait, said) = (RETRY.0, false);
                front.sync_state().set_watching(true);
                front.upstream().following.set(1);
                log::info!("following containerd at {}", front.containerd().socket().display());
                let ended = watch(&front, events).await;
                front.sync_state().set_watching(false);
                front.upstream().following.set(0);
                log::warn!("containerd's events ended ({ended}): reads ask it again or use LMDB");
            }
            Err(status) if !std::mem::replace(&mut said, true) => {
                log::warn!(
                    "containerd at {} does not answer: {}; image names are served from LMDB",
                    front.containerd().socket().display(),
                    status.message()
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Subscribes; when this returns, no later event is missed.
async fn subscribe(front: &ProxyImages) -> Result<Streaming<Envelope>, Status> {
    let filters =
        ["/images/", "/namespaces/", PROBE_TOPIC].map(|topic| format!("topic~=\"^{topic}\""));
    let request = SubscribeRequest { filters: filters.into(), ..Default::default() };
    let path = "/containerd.services.events.v1.Events/Subscribe";
    // containerd sends no headers before the first event, so this waits for the mark.
    let stream = front.containerd().stream(path, request);
    tokio::pin!(stream);
    let mut again = tokio::time::interval(PROBE_INTERVAL);
    loop {
        tokio::select! {
            stream = &mut stream => return stream,
            _ = again.tick() => publish_probe(front).await?,
        }
    }
}

async fn publish_probe(front: &ProxyImages) -> Result<(), Status> {
    let event = Any { type_url: "google.protobuf.Empty".into(), ..Any::default() };
    let request = PublishRequest {
        topic: PROBE_TOPIC.into(),
        event: Some(event).into(),
        ..Default::default()
    };
    let namespace = Namespace::parse("default").ok();
    let path = "/containerd.services.events.v1.Events/Publish";
    let headers = http::HeaderMap::new();
    let call = front.containerd().call(path, namespace.as_ref(), &headers, request);
    let sent = tokio::time::timeout(RETRY.1, call).await;
    sent.map_err(|_| Status::unavailable("it hangs"))?.map(|_: Empty| ())
}

/// Applies events until they end; says why they did.
async fn watch(front: &ProxyImages, mut events: Streaming<Envelope>) -> String {
    let room = std::sync::Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut again = tokio::time::interval(RECONCILE_INTERVAL);
    loop {
        let event = tokio::select! {
            event = events.message() => event,
            _ = again.tick() => {
                front.wanted().all();
                continue;
            }
        };
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => return "the stream was closed".into(),
            Err(status) => return status.message().to_owned(),
        };
        if let Some(sent) = event.timestamp.as_ref() {
            front.upstream().lag.observe(age(sent));
        }
        let Ok(namespace) = Namespace::parse(&event.namespace) else { continue };
        if event.topic.starts_with("/namespaces/") {
            front.wanted().list();
        }
        if !event.topic.starts_with("/images/") {
            continue;
        }
        let Some(name) = named(&event.event.value) else { continue };
        let (front, place) = (front.clone(), std::sync::Arc::clone(&room).acquire_owned().await);
        tokio::spawn(async move {
            match front.refresh(&namespace, &name, false).await {
                Ok(Found::Kept) => front.meet(&namespace),
                Ok(Found::Removed | Found::Absent) => {}
                Err(e) => {
                    log::debug!("following an event of namespace {namespace}: {e}");
                    front.sync_state().invalidate(&namespace);
                    front.schedule_reconcile(&namespace);
                }
            }
            drop(place);
        });
    }
}

/// The name in an event of an image: field 1 in all three kinds. Nothing else of it is decoded: any client
/// of containerd may publish under that topic what takes much memory then.
fn named(event: &[u8]) -> Option<String> {
    let mut input = CodedInputStream::from_bytes(event);
    while let Some(tag) = input.read_raw_tag_or_eof().ok()? {
        let wire = WireType::new(tag & 7)?;
        if tag >> 3 != 1 || wire != WireType::LengthDelimited {
            input.skip_field(wire).ok()?;
            continue;
        }
        let length = input.read_raw_varint32().ok()? as usize;
        let from = usize::try_from(input.pos()).ok()?;
        let name = event.get(from..from.checked_add(length)?)?;
        return (length <= MAX_NAME_BYTES).then(|| String::from_utf8(name.to_vec()).ok()).flatten();
    }
    None
}

/// How many seconds ago that was, by the clock of this machine, which is containerd's.
fn age(time: &Timestamp) -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sent = time.seconds as f64 + f64::from(time.nanos) / 1e9;
    (since.as_secs_f64() - sent).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::image_events::ImageCreate;
    use protobuf::Message;

    #[test]
    fn an_event_of_an_image_has_its_name_and_nothing_else_is_decoded() {
        let event = |name: &str, labels: usize| {
            let labels = (0..labels).map(|n| (n.to_string(), "v".into())).collect();
            let event = ImageCreate { name: name.into(), labels, ..ImageCreate::default() };
            event.write_to_bytes().unwrap()
        };
        assert_eq!(named(&event("a", 100_000)).as_deref(), Some("a"));
        assert_eq!(named(&[event("", 3), event("b", 0)].concat()).as_deref(), Some("b"));
        assert_eq!(named(&event(&"x".repeat(MAX_NAME_BYTES + 1), 0)), None);
        for junk in [&b""[..], b"\x0a", b"\x0a\x05a", b"\x0a\x01\xff", &[0xff; 20]] {
            assert_eq!(named(junk), None, "{junk:?}");
        }
    }
}

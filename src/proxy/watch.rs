//! Watches containerd's events, which report the changes of containerd's other clients.
//!
//! An event is only a hint that a record has changed: the daemon reads the record again under its lock. So an
//! event of the daemon's own write has no effect. No read depends on events: they keep the copy in LMDB up to
//! date for the time when containerd is down. After a gap in the events, all namespaces are reconciled.
//!
//! containerd does not report when a subscription takes effect. So the watcher publishes a probe event
//! (topic `/lmdb-images/following`) until the subscription delivers it. The probe is the only thing
//! that the proxy sends without a client's request, and containerd does not store it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use protobuf::CodedInputStream;
use protobuf::rt::WireType;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::api::event::Envelope;
use crate::api::events::{PublishRequest, SubscribeRequest};
use crate::containerd::client::Replies;
use crate::model::Namespace;
use crate::proxy::copy::{Refreshed, Removal};
use crate::proxy::images::ProxyImages;

/// The pause before the first retry to subscribe. It doubles with each further failure.
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The longest pause before a retry, and the timeout of a probe.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How often the watcher publishes the probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How often the watcher schedules all namespaces, in case an event was lost unnoticed.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// How often the watcher looks for containerd's files while they cannot be used.
const FIND_FILES_INTERVAL: Duration = Duration::from_secs(10);

/// The longest name of an image, in bytes: a key of containerd's bolt file has no more.
const MAX_NAME_BYTES: usize = 32 << 10;

/// The most records that the watcher refreshes at a time.
const MAX_CONCURRENT: usize = 16;

const PROBE_TOPIC: &str = "/lmdb-images/following";

/// Watches forever: subscribes, applies events, and subscribes again.
pub async fn run(proxy: ProxyImages) {
    let mut wait = MIN_RETRY_INTERVAL;
    let mut is_logged = false;
    loop {
        match subscribe(&proxy).await {
            Ok(events) => {
                (wait, is_logged) = (MIN_RETRY_INTERVAL, false);
                proxy.find_files().await;
                proxy.sync_state().set_watching(true);
                proxy.upstream().following.set(1);
                log::info!("following containerd at {}", proxy.containerd().socket().display());
                let ended = watch(&proxy, events).await;
                proxy.sync_state().set_watching(false);
                proxy.upstream().following.set(0);
                log::warn!(
                    "containerd's events ended ({ended}): changes of its other clients are seen when they are read"
                );
            }
            Err(status) if !std::mem::replace(&mut is_logged, true) => {
                log::warn!(
                    "containerd at {} does not answer: {}; image names are read from its files, or if these are gone, \
                     as they were last seen",
                    proxy.containerd().socket().display(),
                    status.message()
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RETRY_INTERVAL);
    }
}

/// Subscribes. The stream delivers every event after this function returns.
async fn subscribe(proxy: &ProxyImages) -> Result<Replies<Envelope>, Status> {
    let filters =
        ["/images/", "/namespaces/", PROBE_TOPIC].map(|topic| format!("topic~=\"^{topic}\""));
    let request = SubscribeRequest { filters: filters.into(), ..Default::default() };
    let path = "/containerd.services.events.v1.Events/Subscribe";
    // containerd sends no headers before the first event, so this future waits for the probe.
    let stream = proxy.containerd().stream(path, request);
    tokio::pin!(stream);
    let mut again = tokio::time::interval(PROBE_INTERVAL);
    loop {
        tokio::select! {
            stream = &mut stream => return stream,
            _ = again.tick() => publish_probe(proxy).await?,
        }
    }
}

async fn publish_probe(proxy: &ProxyImages) -> Result<(), Status> {
    let event = Any { type_url: "google.protobuf.Empty".into(), ..Any::default() };
    let request = PublishRequest {
        topic: PROBE_TOPIC.into(),
        event: Some(event).into(),
        ..Default::default()
    };
    let namespace = Namespace::parse("default").ok();
    let path = "/containerd.services.events.v1.Events/Publish";
    let headers = http::HeaderMap::new();
    let call = proxy.containerd().call(path, namespace.as_ref(), &headers, request);
    let sent = tokio::time::timeout(MAX_RETRY_INTERVAL, call).await;
    sent.map_err(|_| Status::unavailable("it hangs"))?.map(|_: Empty| ())
}

/// Applies events until the stream ends. Returns the reason.
async fn watch(proxy: &ProxyImages, mut events: Replies<Envelope>) -> String {
    let permits = std::sync::Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut reconcile = tokio::time::interval(RECONCILE_INTERVAL);
    let mut find_files = tokio::time::interval(FIND_FILES_INTERVAL);
    loop {
        let event = tokio::select! {
            event = events.message() => event,
            _ = reconcile.tick() => {
                proxy.reconcile_queue().schedule_all();
                continue;
            }
            _ = find_files.tick() => {
                if proxy.live().is_none() {
                    proxy.find_files().await;
                }
                continue;
            }
        };
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => return "the stream was closed".into(),
            Err(status) => return status.message().to_owned(),
        };
        if let Some(sent) = event.timestamp.as_ref() {
            proxy.upstream().lag.observe(age(sent));
        }
        let Ok(namespace) = Namespace::parse(&event.namespace) else { continue };
        if event.topic.starts_with("/namespaces/") {
            proxy.reconcile_queue().schedule_list();
        }
        if !event.topic.starts_with("/images/") {
            continue;
        }
        let Some(name) = image_name(&event.event.value) else { continue };
        let (proxy, permit) =
            (proxy.clone(), std::sync::Arc::clone(&permits).acquire_owned().await);
        let refresh = async move {
            match proxy.refresh(&namespace, &name, Removal::Delete).await {
                Ok(Refreshed::Stored) => proxy.observe(&namespace),
                Ok(Refreshed::Removed | Refreshed::Absent) => {}
                Err(e) => {
                    log::debug!("following an event of namespace {namespace}: {e}");
                    proxy.schedule_reconcile(&namespace);
                }
            }
            drop(permit);
        };
        tokio::spawn(refresh.boxed());
    }
}

/// The image name in an event: field 1 in all three kinds. The function decodes no other field,
/// because any client of containerd may publish a large event under this topic.
fn image_name(event: &[u8]) -> Option<String> {
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

/// The age of `time` in seconds. containerd runs on this machine, so both share a clock.
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
        assert_eq!(image_name(&event("a", 100_000)).as_deref(), Some("a"));
        assert_eq!(image_name(&[event("", 3), event("b", 0)].concat()).as_deref(), Some("b"));
        assert_eq!(image_name(&event(&"x".repeat(MAX_NAME_BYTES + 1), 0)), None);
        for junk in [&b""[..], b"\x0a", b"\x0a\x05a", b"\x0a\x01\xff", &[0xff; 20]] {
            assert_eq!(image_name(junk), None, "{junk:?}");
        }
    }
}

//! What a server answered to a request of the services beside Images, in the form in which answers
//! are compared.

use std::collections::BTreeMap;

use lmdb_images::api::event::Envelope;
use lmdb_images::api::image_events::ImageCreate;
use lmdb_images::api::images::{CreateImageResponse, UpdateImageResponse};
use lmdb_images::api::introspection::PluginsResponse;
use lmdb_images::api::leases::{CreateResponse, Lease, ListResourcesResponse, ListResponse};
use lmdb_images::api::namespace::{
    CreateNamespaceResponse, GetNamespaceResponse, ListNamespacesResponse, Namespace,
    UpdateNamespaceResponse,
};
use lmdb_images::model::Namespace as Valid;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tonic::Code;

use super::request::{Request, TOKEN};
use crate::live::show::short;
use crate::support::Failed;

#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Failed(Failed),
    /// What the reply holds, a line each.
    Reply(Vec<String>),
}

/// The services that we offer, which are plugins of containerd.
const OFFERED: [&str; 8] = [
    "events",
    "healthcheck",
    "images",
    "introspection",
    "leases",
    "namespaces",
    "transfer",
    "version",
];

impl Answer {
    pub fn new(request: &Request, reply: Result<Vec<u8>, Failed>) -> Self {
        let bytes = match reply {
            Err(failed) => return Self::Failed(failed),
            Ok(bytes) => bytes,
        };
        fn parsed<M: Message>(bytes: &[u8]) -> M {
            M::parse_from_bytes(bytes).unwrap()
        }
        let one = |namespace: MessageField<Namespace>| vec![namespace_shown(namespace.as_ref())];
        Self::Reply(match request {
            Request::GetNamespace(_) => one(parsed::<GetNamespaceResponse>(&bytes).namespace),
            Request::CreateNamespace(_) => one(parsed::<CreateNamespaceResponse>(&bytes).namespace),
            Request::UpdateNamespace(_) => one(parsed::<UpdateNamespaceResponse>(&bytes).namespace),
            Request::ListNamespaces(_) => parsed::<ListNamespacesResponse>(&bytes)
                .namespaces
                .iter()
                // containerd may hold some that are no valid ones (see `known`).
                .filter(|n| n.name.contains(TOKEN) && Valid::parse(&n.name).is_ok())
                .map(|namespace| namespace_shown(Some(namespace)))
                .collect(),
            // Images are compared elsewhere.
            Request::CreateImage(_) => {
                vec![parsed::<CreateImageResponse>(&bytes).image.name.clone()]
            }
            Request::UpdateImage(_) => {
                vec![parsed::<UpdateImageResponse>(&bytes).image.name.clone()]
            }
            Request::CreateLease(_) => vec![lease(&parsed::<CreateResponse>(&bytes).lease)],
            Request::ListLeases(_) => {
                parsed::<ListResponse>(&bytes).leases.iter().map(lease).collect()
            }
            Request::ListResources(_) => parsed::<ListResourcesResponse>(&bytes)
                .resources
                .iter()
                .map(|resource| format!("{} {:?}", resource.type_, resource.id))
                .collect(),
            Request::Plugins(_) => {
                let plugins = parsed::<PluginsResponse>(&bytes).plugins;
                let mut ids: Vec<String> = plugins
                    .into_iter()
                    .filter(|p| p.type_ == "io.containerd.grpc.v1")
                    .filter(|p| OFFERED.contains(&p.id.as_str()))
                    .map(|p| p.id)
                    .collect();
                ids.sort();
                ids
            }
            // It is played by `watch`, and gives no bytes.
            Request::Subscribe(_) => vec!["subscribed".into()],
            Request::DeleteNamespace(_)
            | Request::DeleteImage(_)
            | Request::DeleteLease(_)
            | Request::AddResource(_)
            | Request::DeleteResource(_)
            | Request::Publish(_)
            | Request::Forward(_)
            | Request::Transfer(_) => {
                assert!(bytes.is_empty(), "{} answered {bytes:?}", request.method());
                Vec::new()
            }
        })
    }

    pub fn failed(code: Code, message: impl Into<String>) -> Self {
        Self::Failed(Failed { code: code as i32, message: message.into() })
    }

    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(failed) => Some(&failed.message),
            Self::Reply(_) => None,
        }
    }

    /// What kind of answer: the code, and the words that no request can choose.
    pub fn kind(&self) -> String {
        let Self::Failed(failed) = self else { return "answered".into() };
        let message = &failed.message;
        let head = message.split(|c: char| c == '"' || c == '[' || c.is_ascii_digit()).next();
        let head: String = head.unwrap_or("").chars().take(50).collect();
        let tail = message.rsplit(": ").next().unwrap_or("");
        format!("{:?} {head} … {}", Code::from_i32(failed.code), short(tail))
    }
}

fn namespace_shown(namespace: Option<&Namespace>) -> String {
    namespace.map_or("unset".into(), |n| format!("{:?} {:?}", n.name, n.labels))
}

/// A lease. An id that containerd may have chosen is left out.
fn lease(lease: &Lease) -> String {
    let id = if is_random(&lease.id) { "random" } else { &lease.id };
    format!("{id:?} {:?} {}", lease.labels, time(lease.created_at.as_ref()))
}

/// Nanoseconds of a second, and three bytes in base64.
pub fn is_random(id: &str) -> bool {
    id.split_once('-').is_some_and(|(nanos, random)| {
        (1..=9).contains(&nanos.len())
            && nanos.bytes().all(|b| b.is_ascii_digit())
            && (nanos == "0" || !nanos.starts_with('0'))
            && random.len() == 4
            && random.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// A time, unless it is about now.
fn time(time: Option<&Timestamp>) -> String {
    match time {
        Some(t) if Timestamp::now().seconds.abs_diff(t.seconds) < 3600 => "now".into(),
        Some(t) => format!("{}s{}", t.seconds, t.nanos),
        None => "unset".into(),
    }
}

/// Labels; of a time that a Transfer gave, only that it is about now.
fn timeless(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if let Some(value) = labels.get_mut("containerd.io/gc.expire")
        && let Ok(at) = value.parse::<jiff::Timestamp>()
        && at.as_second().abs_diff(jiff::Timestamp::now().as_second()) < 3600
    {
        *value = "now".into();
    }
    labels
}

/// An event: its payload decoded where it is one of images or namespaces.
pub fn envelope(envelope: &Envelope) -> String {
    let event = envelope.event.as_ref().map_or("no event".to_owned(), |event| {
        let shown = match event.type_url.as_str() {
            url if url.contains(".Image") || url.contains(".Namespace") => {
                ImageCreate::parse_from_bytes(&event.value)
                    .map(|known| format!("{:?} {:?}", known.name, timeless(known.labels)))
                    .unwrap_or_else(|_| format!("{:?}", event.value))
            }
            _ => format!("{:?}", event.value),
        };
        format!("{} {shown}", event.type_url)
    });
    let at = time(envelope.timestamp.as_ref());
    format!("{:?} {} {at}: {event}", envelope.namespace, envelope.topic)
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(failed) if failed.message.len() < 1000 => {
                write!(f, "{:?} {:?}", Code::from_i32(failed.code), failed.message)
            }
            Self::Failed(failed) => {
                write!(f, "{:?} {}", Code::from_i32(failed.code), short(&failed.message))
            }
            Self::Reply(lines) => {
                let lines: Vec<String> = lines.iter().map(|line| short(line)).collect();
                write!(f, "answered {}", lines.join("; "))
            }
        }
    }
}

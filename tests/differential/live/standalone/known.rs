//! How the services beside Images are known to differ on containerds.

use go_compat::text::lossy;
use lmdb_images::api::imagestore::ImageStore;
use lmdb_images::api::transfer::TransferRequest;
use lmdb_images::model::Namespace;
use lmdb_images::model::label::MAX_SIZE;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tonic::Code;

use super::answer::Answer;
use super::request::{Request, Step};
use crate::live::engine::Sent;
use crate::live::engine::known::{FIRST, Known, LAST};
use crate::support::Failed;
use crate::support::containerd::Version;

pub const KNOWN: &[Known<Step, Answer>] = &[
    Known {
        name: "answer of an update",
        versions: (FIRST, (1, 7, 0)),
        reason: "it has an empty namespace in it",
        due: |step, ours| {
            let Request::UpdateNamespace(_) = &step.request else { return None };
            let unset = Answer::Reply(vec!["unset".into()]);
            (*ours == unset).then(|| Answer::Reply(vec!["\"\" {}".into()]))
        },
    },
    Known {
        name: "label too long",
        versions: (FIRST, (1, 7, 0)),
        reason: "the sentence had no length, and 10 bytes of the key instead of 64",
        due: |_, ours| {
            let Answer::Failed(failed) = ours else { return None };
            let (before, rest) = failed.message.split_once(" length (")?;
            let (_, shown) = rest.split_once(", key: ")?;
            // The key may be one of the mask that no label has, beside a label that is too long, too.
            let key = shown.strip_suffix(": invalid argument")?;
            let shown = key.as_bytes().get(..10).map_or(key.into(), lossy);
            let expected = format!(
                "{before} greater than maximum size (4096 bytes), key: {shown}: invalid argument"
            );
            Some(Answer::Failed(Failed { code: failed.code, message: expected }))
        },
    },
    Known {
        name: "empty key of a namespace",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty key; ours says which map has it (docs/compatibility.md)",
        due: |_, ours| {
            ours.message()?.strip_prefix("namespace.Labels: the key of value ")?;
            Some(Answer::failed(Code::Unknown, "key required"))
        },
    },
    Known {
        name: "empty key of a lease",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty key; ours says which map has it (docs/compatibility.md)",
        due: |_, ours| {
            let rest = ours.message()?.strip_prefix("lease.Labels: the key of value ")?;
            let (value, _) = rest.rsplit_once(" is empty; ")?;
            let expected = format!("failed to set label \"\"={value}: key required");
            Some(Answer::failed(Code::Unknown, expected))
        },
    },
    Known {
        name: "update of an invalid namespace",
        versions: (FIRST, LAST),
        reason: "it is stored, and refused when its event is published; ours stores nothing \
                 (docs/compatibility.md)",
        due: |step, ours| {
            let Request::UpdateNamespace(request) = &step.request else { return None };
            let refused = Namespace::parse(&request.namespace.name).err()?;
            let sentence = (ours.message()? == refused.message()
                && !request.namespace.name.is_empty())
            .then(|| format!("failed publishing event: namespace validation: {refused}"))?;
            Some(Answer::failed(Code::Unknown, sentence))
        },
    },
    Known {
        name: "update of the namespace without a name",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty bucket; ours looks at the name last (docs/compatibility.md)",
        due: |step, ours| {
            let Request::UpdateNamespace(request) = &step.request else { return None };
            let (space, paths) = (&request.namespace, &request.update_mask.paths);
            ours.message().filter(|_| space.name.is_empty())?;
            let stored = match paths.first().map(|path| path.strip_prefix("labels.")) {
                None if space.labels.is_empty() => {
                    let expected =
                        "failed publishing event: namespace is required: failed precondition";
                    return Some(Answer::failed(Code::Unknown, expected));
                }
                None => space.labels.iter().all(|(k, v)| k.len() + v.len() <= MAX_SIZE),
                Some(None) => false,
                Some(Some(key)) => {
                    key.len() + space.labels.get(key).map_or(0, String::len) <= MAX_SIZE
                }
            };
            stored.then(|| Answer::failed(Code::Unknown, "bucket name required"))
        },
    },
    Known {
        name: "resource without an id",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty key; ours says what is missing (docs/compatibility.md)",
        due: |_, ours| {
            let is_due =
                ours.message()? == "AddResourceRequest.resource.id must be set: invalid argument";
            is_due.then(|| Answer::failed(Code::Unknown, "key required"))
        },
    },
    Known {
        name: "resource of the snapshotter without a name",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty bucket; ours calls the type invalid (docs/compatibility.md)",
        due: |_, ours| {
            let expected = "invalid snapshot resource type snapshots/: invalid argument";
            (ours.message()? == expected)
                .then(|| Answer::failed(Code::Unknown, "bucket name required"))
        },
    },
    Known {
        name: "delete of the lease without an id",
        versions: (FIRST, LAST),
        reason: "bolt takes the end of an empty bucket for the empty key (docs/compatibility.md)",
        due: |step, ours| {
            let Request::DeleteLease(request) = &step.request else { return None };
            let is_due = request.id.is_empty() && ours.message()? == "lease \"\": not found";
            is_due.then(|| Answer::failed(Code::Unknown, "incompatible value"))
        },
    },
];

/// Why such a request is not sent to that version, nor to us, if it is not.
fn unsent(request: &Request, version: Version) -> Option<&'static str> {
    let resource = match request {
        Request::AddResource(r) => r.resource.type_.as_str(),
        Request::DeleteResource(r) => r.resource.type_.as_str(),
        _ => "",
    };
    let event = match request {
        Request::Publish(r) => Some(&r.event),
        Request::Forward(r) => Some(&r.envelope.event),
        _ => None,
    };
    let no_event = event.is_some_and(MessageField::is_none);
    let host = event.is_some_and(|event| event.type_url.contains('/'));
    match request {
        Request::Transfer(r) if fails_in_the_middle(r) => Some(
            "a tag of which a later name fails is not sent: the earlier ones stay; ours are all or none \
             (docs/compatibility.md)",
        ),
        Request::Transfer(r) if version < (2, 3, 0) && has_tied_names(r) => Some(
            "a tag of several names, or of a prefix, is not sent: before 2.3 no name is tied to the first, \
             and a prefix gives none (docs/compatibility.md)",
        ),
        _ if version >= (2, 0, 0) => None,
        Request::Forward(r) if version < (1, 7, 0) && !is_plain(r.envelope.timestamp.as_ref()) => {
            Some("a time unset or out of range is not sent: 1.6 refuses it")
        }
        _ if no_event && version < (1, 7, 0) => Some("no event is not sent: 1.6 would die of it"),
        _ if host && version < (1, 7, 0) => {
            Some("a type URL with a host is not sent: 1.6 knows no such type")
        }
        Request::Transfer(_) => Some("Transfer is not sent: 1.6 has none, 1.7 an earlier one"),
        Request::Plugins(_) => Some("Plugins is not sent: only 2.x is compared"),
        _ if resource.starts_with("images") => {
            Some("a lease's image is not sent: leases hold images since 2.0")
        }
        _ => None,
    }
}

fn destination(request: &TransferRequest) -> ImageStore {
    ImageStore::parse_from_bytes(&request.destination.value).unwrap_or_default()
}

fn has_tied_names(request: &TransferRequest) -> bool {
    let to = destination(request);
    !(to.name.is_empty() || to.extra_references.is_empty())
        || to.extra_references.iter().any(|reference| reference.is_prefix)
}

/// Whether a name beside the first is empty, which is refused when others are stored.
fn fails_in_the_middle(request: &TransferRequest) -> bool {
    let to = destination(request);
    let references = to.extra_references.iter();
    let mut whole = references.filter(|reference| !reference.is_prefix || reference.add_digest);
    let first_unnamed =
        whole.position(|reference| reference.name.is_empty() && !reference.add_digest);
    first_unnamed.is_some_and(|position| position > 0 || !to.name.is_empty())
}

fn is_plain(time: Option<&Timestamp>) -> bool {
    time.is_some_and(|t| (0..1_000_000_000).contains(&t.nanos) && t.seconds <= 253_402_300_799)
}

/// The step as it may be sent to a containerd of `version`: 1.6 tells the events of Namespaces in the
/// namespace of the call, others in the one that they are about.
pub fn sendable(step: &Step, version: Version) -> Sent<Step> {
    if let Some(reason) = unsent(&step.request, version) {
        return Sent { step: None, reasons: vec![reason.into()] };
    }
    let mut step = step.clone();
    if version < (1, 7, 0) {
        match &step.request {
            Request::CreateNamespace(r) => step.space = Some(r.namespace.name.clone()),
            Request::UpdateNamespace(r) => step.space = Some(r.namespace.name.clone()),
            Request::DeleteNamespace(r) => step.space = Some(r.name.clone()),
            _ => {}
        }
    }
    Sent { step: Some(step), reasons: Vec::new() }
}

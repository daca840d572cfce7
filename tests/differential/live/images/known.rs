//! How other versions of containerd are known to differ from 2.3, whose answers ours are.

use go_compat::text::lossy;
use tonic::Code;

use super::answer::Answer;
use super::step::{Request, Step};
use crate::live::engine::Sent;
use crate::live::engine::known::{FIRST, Known, LAST, Versions, within};
use crate::support::containerd::Version;

/// What a version does not know is not sent to it, nor to us.
struct Unsent {
    name: &'static str,
    versions: Versions,
    reason: &'static str,
    strip: fn(&mut Request),
}

const UNSENT: &[Unsent] = &[
    Unsent {
        name: "Delete.target",
        versions: (FIRST, (2, 0, 0)),
        reason: "the field came with 2.0; older ones would delete whatever the target",
        strip: |request| {
            if let Request::Delete(r) = request {
                r.target.take();
            }
        },
    },
    Unsent {
        name: "source_date_epoch",
        versions: (FIRST, (1, 7, 0)),
        reason: "the fields came with 1.7; older ones would take the time of their clock",
        strip: |request| match request {
            Request::Create(r) => drop(r.source_date_epoch.take()),
            Request::Update(r) => drop(r.source_date_epoch.take()),
            _ => {}
        },
    },
    Unsent {
        name: "(?<name>…) in a pattern",
        versions: (FIRST, (1, 7, 0)),
        reason: "it came with Go 1.22; 1.6 was built with an older one",
        strip: |request| {
            if let Request::List(r) = request {
                r.filters.retain(|filter| !filter.contains("(?<"));
            }
        },
    },
    Unsent {
        name: "created_at with odd nanoseconds",
        versions: (FIRST, (1, 7, 0)),
        reason: "1.6 reads a client's own time, and fails to, before it ignores it as others do",
        strip: |request| {
            let image = match request {
                Request::Create(r) => r.image.as_mut(),
                Request::Update(r) => r.image.as_mut(),
                _ => None,
            };
            if let Some(image) = image
                && !(0..1_000_000_000).contains(&image.created_at.nanos)
            {
                image.created_at.take();
            }
        },
    },
];

pub const KNOWN: &[Known<Step, Answer>] = &[
    Known {
        name: "empty key",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty key; ours says which map has it (docs/compatibility.md)",
        due: |step, ours| {
            let (map, rest) = ours.message()?.split_once(": the key of value ")?;
            let (value, _) = rest.rsplit_once(" is empty; ")?;
            let map = if map == "image.Labels" { "labels" } else { "Annotations" };
            let name = &step.image()?.name;
            let expected = format!(
                "writing {map} for image {name}: failed to set label \"\"={value}: key required"
            );
            Some(Answer::failed(Code::Unknown, expected))
        },
    },
    Known {
        name: "Target with a capital",
        versions: (FIRST, (2, 3, 0)),
        reason: "errors of the target began so",
        due: |_, ours| {
            let rest = ours.message()?.strip_prefix("target.")?;
            Some(Answer::failed(Code::InvalidArgument, format!("Target.{rest}")))
        },
    },
    Known {
        name: "delete of the empty name",
        versions: (FIRST, LAST),
        reason: "bolt takes the end of an empty bucket for the empty key (docs/compatibility.md)",
        due: |step, ours| {
            let Request::Delete(request) = &step.request else { return None };
            let is_due = request.name.is_empty() && ours.message()? == "image \"\": not found";
            is_due.then(|| Answer::failed(Code::Unknown, "incompatible value"))
        },
    },
    Known {
        name: "label too long",
        versions: (FIRST, (1, 7, 0)),
        reason: "the sentence had no length, and 10 bytes of the key instead of 64",
        due: |_, ours| {
            let (before, rest) = ours.message()?.split_once(" length (")?;
            let (_, shown) = rest.split_once(", key: ")?;
            // The key may be one of the mask that no label has, beside a label that is too long, too.
            let key = shown.strip_suffix(": invalid argument")?;
            let shown = key.as_bytes().get(..10).map_or(key.into(), lossy);
            let expected = format!(
                "{before} greater than maximum size (4096 bytes), key: {shown}: invalid argument"
            );
            Some(Answer::failed(Code::InvalidArgument, expected))
        },
    },
];

/// The step as it may be sent to a containerd of `version`.
pub fn sendable(step: &Step, version: Version) -> Sent<Step> {
    let mut step = step.clone();
    let mut reasons = Vec::new();
    for unsent in UNSENT.iter().filter(|u| within(u.versions, version)) {
        let before = step.request.clone();
        (unsent.strip)(&mut step.request);
        if step.request != before {
            reasons.push(format!("{} is not sent: {}", unsent.name, unsent.reason));
        }
    }
    Sent { step: Some(step), reasons }
}

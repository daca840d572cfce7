//! How other versions of containerd are known to differ from 2.3, whose answers ours are. As narrow
//! as can be: what a rule does not foretell to the letter is a difference.

use lmdb_images::model::go::text::lossy;
use lmdb_images::model::label;
use tonic::Code;

use super::answer::Answer;
use super::step::{Request, Step};
use crate::support::containerd::Version;

/// A rule: what containerd answers where we answer something else.
pub struct Known {
    pub name: &'static str,
    /// From this version on, and before that one.
    pub versions: (Version, Version),
    pub reason: &'static str,
    /// The answer due from containerd where we give this one; none where the rule says nothing.
    due: fn(&Step, &Answer) -> Option<Answer>,
}

/// What a version does not know is not sent to it, nor to us.
pub struct Unsent {
    pub name: &'static str,
    pub versions: (Version, Version),
    pub reason: &'static str,
    strip: fn(&mut Request),
}

pub const FIRST: Version = (0, 0, 0);
pub const LAST: Version = (u32::MAX, 0, 0);

pub const UNSENT: &[Unsent] = &[
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

pub const KNOWN: &[Known] = &[
    Known {
        name: "empty key",
        versions: (FIRST, LAST),
        reason: "bolt knows no empty key; ours says which map has it (docs/compatibility.md)",
        due: |step, ours| {
            let (map, rest) = ours.message()?.split_once(": the key of value ")?;
            let (value, _) = rest.rsplit_once(" is empty; ")?;
            let map = if map == "image.Labels" { "labels" } else { "Annotations" };
            let name = &step.image()?.name;
            let told = format!(
                "writing {map} for image {name}: failed to set label \"\"={value}: key required"
            );
            Some(Answer::failed(Code::Unknown, told))
        },
    },
    Known {
        name: "Target with a capital",
        versions: (FIRST, (2, 3, 0)),
        reason: "errors of the target began so",
        due: |_, ours| {
            let told = ours.message()?.strip_prefix("target.")?;
            Some(Answer::failed(Code::InvalidArgument, format!("Target.{told}")))
        },
    },
    Known {
        name: "delete of the empty name",
        versions: (FIRST, LAST),
        reason: "bolt takes the end of an empty bucket for the empty key (docs/compatibility.md)",
        due: |step, ours| {
            let Request::Delete(request) = &step.request else { return None };
            let told = request.name.is_empty() && ours.message()? == "image \"\": not found";
            told.then(|| Answer::failed(Code::Unknown, "incompatible value"))
        },
    },
    Known {
        name: "label too long",
        versions: (FIRST, (1, 7, 0)),
        reason: "the sentence told no length, and 10 bytes of the key instead of 64",
        due: |step, ours| {
            let (before, _) = ours.message()?.split_once(" length (")?;
            let labels = &step.image()?.labels;
            let (key, _) = labels.iter().find(|(k, v)| k.len() + v.len() > label::MAX_SIZE)?;
            let shown = key.as_bytes().get(..10).map_or(key.as_str().into(), lossy);
            let told = format!(
                "{before} greater than maximum size (4096 bytes), key: {shown}: invalid argument"
            );
            Some(Answer::failed(Code::InvalidArgument, told))
        },
    },
];

pub fn within(versions: (Version, Version), version: Version) -> bool {
    versions.0 <= version && version < versions.1
}

/// The step as it may be sent to a containerd of `version`, and the rules that changed it.
pub fn sendable(step: &Step, version: Version) -> (Step, Vec<&'static Unsent>) {
    let mut step = step.clone();
    let mut met = Vec::new();
    for unsent in UNSENT.iter().filter(|u| within(u.versions, version)) {
        let before = step.request.clone();
        (unsent.strip)(&mut step.request);
        if step.request != before {
            met.push(unsent);
        }
    }
    (step, met)
}

/// The rule that foretells exactly `theirs`.
pub fn explains(
    version: Version,
    step: &Step,
    theirs: &Answer,
    ours: &Answer,
) -> Option<&'static Known> {
    let mut rules = KNOWN.iter().filter(|k| within(k.versions, version));
    rules.find(|known| (known.due)(step, ours).as_ref() == Some(theirs))
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not sent: {}", self.name, self.reason)
    }
}

//! What a rescue tells while it runs, and its end. docs/json.md promises the fields of the JSON forms to
//! scripts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::plan::Extent;
use super::preflight::Check;
use super::tree::Loss;
use crate::admin::diff::Difference;
use crate::admin::export::RecordResult;

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageResult {
    /// containerd has its name and content again.
    Restored,
    /// containerd had the same record.
    Unchanged,
    /// Too much of its content is lost: it got no name.
    Lost,
    /// Its record in the store is damaged.
    Damaged,
    /// containerd has a different record of that name, which stays.
    Different,
    /// containerd refused it, or a call failed, for this reason.
    Failed(String),
}

impl From<Option<RecordResult>> for ImageResult {
    fn from(result: Option<RecordResult>) -> Self {
        match result {
            None => Self::Unchanged,
            Some(RecordResult::Created | RecordResult::Overwritten) => Self::Restored,
            Some(RecordResult::Different) => Self::Different,
            Some(RecordResult::Damaged) => Self::Damaged,
            Some(RecordResult::NoContent(digest)) => {
                Self::Failed(format!("containerd no longer has {digest}"))
            }
            Some(RecordResult::Refused(why) | RecordResult::Failed(why)) => Self::Failed(why),
        }
    }
}

/// What became of an image, with what of it is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its namespace.
    pub namespace: String,
    /// Its name; `None` for the labels of the namespace.
    pub name: Option<String>,
    /// Whether the store had set it aside.
    pub aside: bool,
    /// What became of it.
    pub result: ImageResult,
    /// What of its content is lost.
    pub lost: Vec<Loss>,
    /// True if nothing was changed: `result` is what would become of it.
    pub dry_run: bool,
}

/// Losses that the line of an image names; the JSON form has all.
const MAX_NAMED_LOSSES: usize = 5;

impl Outcome {
    /// Whether something of it did not come back.
    pub fn is_loss(&self) -> bool {
        !self.lost.is_empty()
            || !matches!(self.result, ImageResult::Restored | ImageResult::Unchanged)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.dry_run { "would be " } else { "" };
        match &self.result {
            ImageResult::Restored => write!(f, "{would}restored")?,
            ImageResult::Unchanged => f.write_str("unchanged")?,
            ImageResult::Lost => f.write_str("lost")?,
            ImageResult::Damaged => f.write_str("lost: its record is damaged in the store")?,
            ImageResult::Different => f.write_str("left: containerd has a different one")?,
            ImageResult::Failed(why) => write!(f, "left: {why}")?,
        }
        let usable = self.result != ImageResult::Lost;
        for (number, loss) in self.lost.iter().take(MAX_NAMED_LOSSES).enumerate() {
            let before = match (number, usable) {
                (0, true) => ", but without all of it: ",
                (0, false) => ": ",
                _ => "; ",
            };
            write!(f, "{before}{loss}")?;
        }
        if self.lost.len() > MAX_NAMED_LOSSES {
            write!(f, "; and {} more blobs", self.lost.len() - MAX_NAMED_LOSSES)?;
        }
        Ok(())
    }
}

/// The end of a rescue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Images to bring back, those with a damaged record too.
    pub images: u64,
    /// Images that containerd has again.
    pub restored: u64,
    /// Images that it had.
    pub unchanged: u64,
    /// Images that did not come back, or not whole, and namespaces without their labels.
    pub lost: u64,
    /// Images with other times than in the store.
    pub new_times: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Blobs that containerd took up.
    pub adopted: u64,
    /// Blobs that it had taken up before.
    pub known: u64,
    /// Time that the blobs took.
    pub adopting: Duration,
    /// Blobs that were put back from the links of `rescue prepare`.
    pub relinked: u64,
    /// Images that differ between what should be and what containerd has at the end.
    pub differences: u64,
    /// True if nothing was changed.
    pub dry_run: bool,
}

impl Summary {
    /// Whether all is back.
    pub fn is_complete(&self) -> bool {
        self.lost == 0 && self.differences == 0
    }

    fn milliseconds_a_blob(&self) -> f64 {
        let blobs = (self.adopted + self.known).max(1);
        self.adopting.as_secs_f64() * 1000.0 / blobs as f64
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, restored, unchanged, lost, namespaces, adopted, known, .. } = self;
        let would = if self.dry_run { "would be " } else { "" };
        write!(f, "{images} images in {namespaces} namespaces: {restored} {would}restored, ")?;
        write!(f, "{unchanged} unchanged, {lost} lost or left; {adopted} blobs {would}taken up")?;
        if *known > 0 {
            write!(f, ", {known} were before")?;
        }
        if !self.dry_run {
            let seconds = self.adopting.as_secs_f64();
            write!(f, " in {seconds:.1} s ({:.1} ms each)", self.milliseconds_a_blob())?;
        }
        f.write_str(", no byte copied")?;
        if self.new_times > 0 {
            write!(f, "; {} with other times than in the store", self.new_times)?;
        }
        if self.relinked > 0 {
            write!(f, "; {} blobs put back from the links of prepare", self.relinked)?;
        }
        Ok(())
    }
}

/// What a rescue tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A check before it.
    Check(Check),
    /// What it will do.
    Plan(Extent),
    /// What became of an image.
    Outcome(Outcome),
    /// An image that differs at the end.
    Difference(Difference),
}

impl Event {
    /// The event as one line of JSON.
    pub fn json(&self) -> String {
        match self {
            Self::Check(check) => json!({
                "check": check.subject, "passed": check.found.is_ok(),
                "detail": check.found.as_ref().unwrap_or_else(|why| why),
            }),
            Self::Plan(plan) => json!({ "plan": {
                "namespaces": plan.namespaces, "images": plan.images, "setAside": plan.aside,
                "unusable": plan.unusable, "blobs": plan.blobs, "bytes": plan.bytes,
            }}),
            Self::Outcome(outcome) => outcome_json(outcome),
            Self::Difference(difference) => return difference.json(),
        }
        .to_string()
    }
}

fn outcome_json(outcome: &Outcome) -> Value {
    let (result, detail) = match &outcome.result {
        ImageResult::Restored => ("restored", None),
        ImageResult::Unchanged => ("unchanged", None),
        ImageResult::Lost => ("lost", None),
        ImageResult::Damaged => ("damaged", None),
        ImageResult::Different => ("different", None),
        ImageResult::Failed(why) => ("failed", Some(why)),
    };
    let lost: Vec<_> = outcome
        .lost
        .iter()
        .map(|loss| {
            json!({ "digest": loss.digest, "part": loss.part, "fault": loss.fault.to_string() })
        })
        .collect();
    json!({
        "namespace": outcome.namespace, "name": outcome.name, "result": result, "detail": detail,
        "setAside": outcome.aside, "lost": lost, "dryRun": outcome.dry_run,
    })
}

impl Summary {
    /// The summary as one line of JSON.
    pub fn json(&self) -> String {
        json!({ "summary": {
            "images": self.images, "restored": self.restored, "unchanged": self.unchanged,
            "lost": self.lost, "newTimes": self.new_times, "namespaces": self.namespaces,
            "adopted": self.adopted, "known": self.known, "relinked": self.relinked,
            "adoptingSeconds": self.adopting.as_secs_f64(), "bytesCopied": 0,
            "differences": self.differences, "dryRun": self.dry_run,
        }})
        .to_string()
    }
}

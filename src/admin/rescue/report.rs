//! The output of a rescue, while it runs and at its end. docs/json.md promises the fields of the JSON forms
//! to scripts.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::plan::Extent;
use super::tree::Loss;
use super::wanted::WantedImage;
use crate::admin::diff::Difference;
use crate::admin::export::RecordResult;
use crate::admin::precondition::Check;
use crate::model::Namespace;

/// The outcome for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageResult {
    /// containerd has its name and content again.
    Restored,
    /// containerd had the same record.
    Unchanged,
    /// Too much of the image's content is lost, so the image got no name.
    Lost,
    /// The image's record in the store is damaged.
    Damaged,
    /// containerd has a different record of that name, which stays as it is.
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

/// The outcome for an image, with its losses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RescueOutcome {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name; `None` for the labels of the namespace.
    pub(crate) name: Option<String>,
    /// Whether the store had set the image aside.
    pub(crate) is_set_aside: bool,
    /// The outcome.
    pub(crate) result: ImageResult,
    /// The lost parts of its content.
    pub(crate) lost: Vec<Loss>,
    /// True if nothing was changed: `result` is the outcome that a run would have.
    pub(crate) dry_run: bool,
}

/// The most losses in the line of an image. The JSON form has all.
const MAX_NAMED_LOSSES: usize = 5;

impl RescueOutcome {
    /// The outcome for an image that the store has, set aside or not.
    pub(crate) fn of_image(
        namespace: &Namespace,
        wanted: &WantedImage,
        result: ImageResult,
        lost: Vec<Loss>,
    ) -> Self {
        let (namespace, name) = (namespace.to_string(), Some(wanted.image.name.clone()));
        let is_set_aside = wanted.is_set_aside;
        Self { namespace, name, is_set_aside, result, lost, dry_run: false }
    }

    /// The outcome for an image whose record is damaged in the store.
    pub(crate) fn damaged(namespace: &Namespace, name: &str) -> Self {
        let (namespace, name) = (namespace.to_string(), Some(name.to_owned()));
        let (result, lost) = (ImageResult::Damaged, Vec::new());
        Self { namespace, name, is_set_aside: false, result, lost, dry_run: false }
    }

    /// Whether a part of the image did not come back.
    pub(crate) fn is_loss(&self) -> bool {
        !self.lost.is_empty()
            || !matches!(self.result, ImageResult::Restored | ImageResult::Unchanged)
    }
}

impl fmt::Display for RescueOutcome {
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
pub(crate) struct RescueSummary {
    /// Images to bring back, with those whose record is damaged.
    pub(crate) images: u64,
    /// Images that containerd has again.
    pub(crate) restored: u64,
    /// Images that containerd had.
    pub(crate) unchanged: u64,
    /// Images that did not come back whole, and namespaces without their labels.
    pub(crate) lost: u64,
    /// Images with other times than in the store.
    pub(crate) new_times: u64,
    /// Namespaces.
    pub(crate) namespaces: u64,
    /// Blobs that containerd took up.
    pub(crate) adopted: u64,
    /// Blobs that containerd had taken up before.
    pub(crate) known: u64,
    /// The time for all blobs.
    pub(crate) adopting: Duration,
    /// Blobs that were restored from the links of `rescue prepare`.
    pub(crate) relinked: u64,
    /// Images that containerd has with another record at the end than the plan.
    pub(crate) differences: u64,
    /// True if nothing was changed.
    pub(crate) dry_run: bool,
}

impl RescueSummary {
    /// Whether every image was restored.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost == 0 && self.differences == 0
    }

    fn milliseconds_a_blob(&self) -> f64 {
        let blobs = (self.adopted + self.known).max(1);
        self.adopting.as_secs_f64() * 1000.0 / blobs as f64
    }
}

impl fmt::Display for RescueSummary {
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

/// An event of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RescueEvent {
    /// A check before the rescue.
    Check(Check),
    /// The size of the plan.
    Plan(Extent),
    /// The outcome for an image.
    Outcome(RescueOutcome),
    /// An image that differs at the end.
    Difference(Difference),
}

impl RescueEvent {
    /// The event as one line of JSON.
    pub(crate) fn json(&self) -> String {
        match self {
            Self::Check(check) => json!({
                "check": check.subject, "passed": check.found.is_ok(),
                "detail": check.found.as_ref().unwrap_or_else(|why| why),
            }),
            Self::Plan(plan) => json!({ "plan": {
                "namespaces": plan.namespaces, "images": plan.images, "setAside": plan.set_aside,
                "unusable": plan.unusable, "blobs": plan.blobs, "bytes": plan.bytes,
            }}),
            Self::Outcome(outcome) => outcome_json(outcome),
            Self::Difference(difference) => return difference.json(),
        }
        .to_string()
    }
}

fn outcome_json(outcome: &RescueOutcome) -> Value {
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
        "setAside": outcome.is_set_aside, "lost": lost, "dryRun": outcome.dry_run,
    })
}

impl RescueSummary {
    /// The summary as one line of JSON.
    pub(crate) fn json(&self) -> String {
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

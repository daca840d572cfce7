//! One namespace of a rescue: its labels, a lease, its blobs, its names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use indicatif::ProgressBar;
use uuid::Uuid;

use super::blobs::{BlobFault, BlobFolder};
use super::plan::{PlannedImage, PlannedNamespace};
use super::report::{ImageResult, RescueEvent, RescueOutcome, RescueSummary};
use super::tree::{BlobInfo, Loss};
use crate::admin::export::{self, Put};
use crate::api::namespace::Namespace as Record;
use crate::clock;
use crate::containerd::client::GrpcClient;
use crate::containerd::content::{Adoption, BlobToAdopt};
use crate::model::{Error, Namespace, Result, UnixTime};

/// The prefix of the ids of leases. A rescue removes the leases of an earlier one that was killed.
const LEASE_PREFIX: &str = "lmdb-images-rescue-";

/// The least time that a lease lasts. After a kill the rescue can be run again within this time without a
/// loss.
const MIN_LEASE_SECONDS: i64 = 24 * 60 * 60;

/// The time that each blob adds to a lease: far more than a slow disk takes.
const LEASE_MILLISECONDS_PER_BLOB: u64 = 200;

/// Restores a namespace.
pub(crate) struct NamespaceRestorer<'r, F> {
    /// The containerd.
    pub(crate) containerd: &'r GrpcClient,
    /// The blobs on its disk.
    pub(crate) blobs: &'r BlobFolder,
    /// Counts.
    pub(crate) summary: &'r mut RescueSummary,
    /// Shows the number of adopted blobs.
    pub(crate) progress: &'r ProgressBar,
    /// Called with the outcome of each image.
    pub(crate) each: &'r mut F,
}

impl<F: FnMut(RescueEvent)> NamespaceRestorer<'_, F> {
    /// Restores the namespace. It skips what an earlier call has done, so it may be called again after a kill.
    pub(crate) async fn run(
        &mut self,
        namespace: &Namespace,
        planned: &PlannedNamespace,
    ) -> Result<()> {
        self.restore_labels(namespace, planned).await?;
        let id = format!("{LEASE_PREFIX}{}", Uuid::new_v4());
        self.containerd.create_lease(namespace, &id, lease_end(planned)).await?;
        let leased = self.containerd.with_lease(&id)?;
        let mut adopted = BTreeSet::new();
        for image in &planned.images {
            self.restore_image(&leased, namespace, planned, image, &mut adopted).await?;
        }
        for name in &planned.damaged {
            self.report(RescueOutcome::damaged(namespace, name));
        }
        // From here on the names keep the content.
        for id in self.containerd.leases(namespace, LEASE_PREFIX).await? {
            self.containerd.delete_lease(namespace, &id).await?;
        }
        Ok(())
    }

    /// Creates the namespace if it is missing, and adds the labels that it lacks.
    async fn restore_labels(
        &mut self,
        namespace: &Namespace,
        planned: &PlannedNamespace,
    ) -> Result<()> {
        let theirs = self.containerd.namespaces().await?;
        let theirs = theirs.into_iter().find(|record| record.name == namespace.as_str());
        let record = |labels: BTreeMap<String, String>| Record {
            name: namespace.to_string(),
            labels,
            ..Record::default()
        };
        let wanted = planned.labels.clone().unwrap_or_default();
        match theirs {
            None => self.containerd.create_namespace(namespace, record(wanted)).await,
            Some(theirs) => {
                let mut all = wanted;
                all.extend(theirs.labels.clone());
                if all == theirs.labels {
                    return Ok(());
                }
                self.containerd.update_namespace(namespace, record(all)).await
            }
        }
    }

    async fn restore_image(
        &mut self,
        leased: &GrpcClient,
        namespace: &Namespace,
        planned: &PlannedNamespace,
        image: &PlannedImage,
        adopted: &mut BTreeSet<String>,
    ) -> Result<()> {
        let mut lost = image.lost.clone();
        let mut result = ImageResult::Lost;
        if image.usable {
            let refused = self.adopt_blobs(leased, namespace, planned, image, adopted).await?;
            // A refused blob of a fitting plan is a fault of the whole image.
            result = match refused {
                Some(loss) => {
                    lost.push(loss);
                    ImageResult::Lost
                }
                None => self.create_image(leased, namespace, image).await?,
            };
        }
        self.report(RescueOutcome::of_image(namespace, &image.wanted, result, lost));
        Ok(())
    }

    /// Has containerd adopt the blobs of an image. Returns the first blob that containerd refuses.
    async fn adopt_blobs(
        &mut self,
        leased: &GrpcClient,
        namespace: &Namespace,
        planned: &PlannedNamespace,
        image: &PlannedImage,
        adopted: &mut BTreeSet<String>,
    ) -> Result<Option<Loss>> {
        let start = Instant::now();
        let mut refused = None;
        for digest in &image.blobs {
            let Some(blob) = planned.blobs.get(digest).filter(|_| !adopted.contains(digest)) else {
                continue;
            };
            if let Err(fault) = self.adopt_blob(leased, namespace, blob).await? {
                let (digest, part) = (digest.clone(), "a blob".to_owned());
                refused = Some(Loss { digest, part, fault });
                break;
            }
            adopted.insert(digest.clone());
            self.progress.inc(1);
        }
        self.summary.adopting += start.elapsed();
        Ok(refused)
    }

    async fn adopt_blob(
        &mut self,
        leased: &GrpcClient,
        namespace: &Namespace,
        blob: &BlobInfo,
    ) -> Result<Result<(), BlobFault>> {
        let BlobInfo { digest, size, labels } = blob;
        match leased.adopt_blob(namespace, &BlobToAdopt { digest, size: *size, labels }).await? {
            Adoption::Adopted => self.summary.adopted += 1,
            Adoption::Known => {
                self.summary.known += 1;
                let known = leased.content(namespace, digest).await?.unwrap_or_default().labels;
                if labels.iter().any(|(key, value)| known.get(key) != Some(value)) {
                    leased.label_content(namespace, digest, labels.clone()).await?;
                }
            }
            Adoption::NotFound => match self.blobs.check(digest, *size) {
                Ok(()) => return Err(unseen_blob_error(digest, self.blobs)),
                Err(fault) => return Ok(Err(fault)),
            },
            Adoption::Refused(why) => {
                return Ok(Err(BlobFault::Other(format!("is refused by containerd: {why}"))));
            }
        }
        Ok(Ok(()))
    }

    async fn create_image(
        &mut self,
        leased: &GrpcClient,
        namespace: &Namespace,
        image: &PlannedImage,
    ) -> Result<ImageResult> {
        let options = export::ExportOptions::default();
        let put = export::put_image(leased, namespace, &image.wanted.image, options).await;
        match put {
            Ok(Put { result, new_times }) => {
                self.summary.new_times += u64::from(new_times);
                Ok(result.into())
            }
            Err(e) => Ok(Some(export::failure(leased, e).await?).into()),
        }
    }

    fn report(&mut self, outcome: RescueOutcome) {
        self.summary.count(&outcome);
        (self.each)(RescueEvent::Outcome(outcome));
    }
}

impl RescueSummary {
    /// Counts the outcome of an image.
    pub(super) fn count(&mut self, outcome: &RescueOutcome) {
        self.images += 1;
        self.restored += u64::from(outcome.result == ImageResult::Restored);
        self.unchanged += u64::from(outcome.result == ImageResult::Unchanged);
        self.lost += u64::from(outcome.is_loss());
    }
}

/// When the lease of a namespace ends.
fn lease_end(planned: &PlannedNamespace) -> UnixTime {
    let needed = planned.blobs.len() as u64 * LEASE_MILLISECONDS_PER_BLOB / 1000;
    let seconds = i64::try_from(needed).unwrap_or(i64::MAX).max(MIN_LEASE_SECONDS);
    let mut end = clock::now();
    end.seconds = end.seconds.saturating_add(seconds);
    end.nanos = 0;
    end
}

fn unseen_blob_error(digest: &str, blobs: &BlobFolder) -> Error {
    Error::FailedPrecondition(format!(
        "containerd does not see {digest}, which lies in {}: is this the folder of that containerd, and \
         is its content_sharing_policy \"shared\"? A lease keeps the blobs that were taken up before: run the \
         rescue again when it is mended",
        blobs.folder().display()
    ))
}

//! Keeps the content that an undo may need. When a client removes a name or moves it to another digest,
//! the daemon protects the old digest from containerd's garbage collector. The setting `undo-keep` says for
//! how long; zero turns this off.
//!
//! The daemon protects content with leases in containerd, one lease for each namespace and hour. A lease
//! protects its digests and all content and snapshots that they refer to. containerd expires the lease. A
//! Delete with `sync` asks containerd to free the disk space at once, so the daemon keeps nothing for it.
//! When the disk with the content is nearly full, the daemon removes all of these leases and makes no new
//! ones.

use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::time::MissedTickBehavior;

use crate::api::images::{GetImageRequest, GetImageResponse, Image};
use crate::clock;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result, UnixTime};
use crate::proxy::images::ProxyImages;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome};
use crate::store::Records;
use go_compat::quote::quote;

/// The prefix of the lease ids. The start of the hour follows, in seconds since 1970.
const LEASE_PREFIX: &str = "lmdb-images-kept-";

/// The disk counts as full from this percentage of use on: then the daemon keeps no content.
const FULL_DISK_PERCENT: u64 = 75;

/// The time between two checks of the disk.
const DISK_INTERVAL: Duration = Duration::from_secs(60);

const HOUR_SECONDS: i64 = 3600;

/// A change after which a name no longer points to its content.
#[derive(Debug)]
pub(super) enum TargetChange {
    /// The name is removed.
    Removed,
    /// The name gets this digest. It may be the digest that the name already has: then nothing changes.
    MovedTo(String),
}

impl TargetChange {
    /// The change that an Update makes; `None` if its field mask leaves out the target.
    pub(super) fn from_update(image: &Image, mask: &[String]) -> Option<Self> {
        let names_target = mask.is_empty() || mask.iter().any(|path| path.starts_with("target"));
        names_target.then(|| Self::MovedTo(image.target.digest.clone()))
    }

    /// The change that a Delete makes; `None` with `sync`, which asks for the disk space at once.
    pub(super) fn from_delete(sync: bool) -> Option<Self> {
        (!sync).then_some(Self::Removed)
    }
}

impl ProxyImages {
    /// Protects the content that a name points to with the lease of this hour. The caller calls this before
    /// it sends containerd a change after which the name no longer points there. A failure is logged and
    /// does not stop the change.
    pub(super) async fn keep_for_undo(
        &self,
        namespace: &Namespace,
        name: &str,
        change: Option<TargetChange>,
    ) {
        let Some((time, change)) = self.shared.undo_keep.zip(change) else { return };
        if let Err(e) = self.try_keep_for_undo(time, namespace, name, change).await {
            throttled_log!(
                Warn,
                "image {} in namespace {namespace}: its content is not kept for an undo: {e}",
                quote(name)
            );
        }
    }

    async fn try_keep_for_undo(
        &self,
        time: Duration,
        namespace: &Namespace,
        name: &str,
        change: TargetChange,
    ) -> Result<()> {
        let get = GetImageRequest { name: name.to_owned(), ..GetImageRequest::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        let headers = http::HeaderMap::new();
        let found = self.ask::<_, GetImageResponse>(path, namespace, &headers, get, READ_TIMEOUT);
        let digest = match found.await {
            UpstreamOutcome::Answer(found) => found.image.target.digest.clone(),
            // containerd refuses the Get, so it will refuse the change for the same reason.
            UpstreamOutcome::Refused(_) => return Ok(()),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                return Err(Error::Unavailable(why));
            }
        };
        if matches!(&change, TargetChange::MovedTo(to) if *to == digest) {
            return Ok(());
        }
        let files = self.live();
        let Some(blobs) = files.as_ref().and_then(|files| files.blobs.as_ref()) else {
            return Err(Error::FailedPrecondition(
                "containerd's content cannot be seen from here, so it is unknown how full its disk is"
                    .into(),
            ));
        };
        let used = disk_used_percent(blobs.folder())?;
        if used >= FULL_DISK_PERCENT {
            return Err(Error::ResourceExhausted(format!(
                "the disk of containerd's content is {used} % full, and from {FULL_DISK_PERCENT} % on nothing \
                 is kept"
            )));
        }
        let now = clock::now();
        let hour = now.seconds - now.seconds.rem_euclid(HOUR_SECONDS);
        let lease = format!("{LEASE_PREFIX}{hour}");
        let kept = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let end = hour.saturating_add(HOUR_SECONDS).saturating_add(kept);
        let containerd = self.containerd();
        containerd.create_lease(namespace, &lease, UnixTime { seconds: end, nanos: 0 }).await?;
        containerd.lease_content(namespace, &lease, &digest).await
    }

    /// Removes the leases that this module made, in all namespaces. Returns their number.
    async fn remove_leases(&self) -> Result<usize> {
        let namespaces = self.local().store().read(|snapshot| snapshot.namespaces())?;
        let mut dropped = 0;
        for namespace in namespaces {
            for lease in self.containerd().leases(&namespace, LEASE_PREFIX).await? {
                self.containerd().delete_lease(&namespace, &lease).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// Checks the disk with containerd's content once a minute, for ever. When the disk is nearly
/// full, removes all leases that keep content for an undo.
pub(crate) async fn run(proxy: ProxyImages) {
    let mut ticks = tokio::time::interval(DISK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(files) = proxy.live() else { continue };
        let Some(blobs) = &files.blobs else { continue };
        match disk_used_percent(blobs.folder()) {
            Ok(used) if used >= FULL_DISK_PERCENT => match proxy.remove_leases().await {
                Ok(0) => {}
                Ok(dropped) => log::warn!(
                    "the disk of containerd's content is {used} % full: {dropped} leases that kept content \
                     for an undo are removed"
                ),
                Err(e) => log::warn!("removing the leases that keep content for an undo: {e}"),
            },
            Ok(_) => {}
            Err(e) => log::warn!("{e}"),
        }
    }
}

/// The percentage of the disk of `folder` that is in use, as `df` shows it: of the blocks that are not
/// reserved, rounded up.
fn disk_used_percent(folder: &Path) -> Result<u64> {
    let found = statvfs(folder).map_err(|e| {
        Error::Internal(format!("looking at the disk of {}: {e}", folder.display()))
    })?;
    Ok(percent_used(
        found.blocks() - found.blocks_free().min(found.blocks()),
        found.blocks_available(),
    ))
}

fn percent_used(used: u64, available: u64) -> u64 {
    used.saturating_mul(100).div_ceil(used.saturating_add(available).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_full_as_its_blocks_say() {
        for (used, available, percent) in
            [(0, 100, 0), (74, 26, 74), (741, 259, 75), (100, 0, 100), (0, 0, 0)]
        {
            assert_eq!(percent_used(used, available), percent, "{used} used, {available} left");
        }
    }
}

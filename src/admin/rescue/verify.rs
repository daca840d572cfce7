//! Hashes blobs in parallel, with one thread for each processor. containerd takes up a blob without reading it,
//! so a damaged blob would otherwise show only when a container is created.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::blobs::{BlobFault, BlobFolder};
use super::plan::RescuePlan;
use crate::admin::progress;

/// Hashes the blobs of the plan, and returns those that are damaged.
pub(crate) fn run(blobs: &BlobFolder, plan: &RescuePlan) -> BTreeMap<String, BlobFault> {
    let digests: Vec<_> = plan.digests().into_iter().collect();
    let progress = progress::byte_bar("hashed", plan.extent().bytes);
    let (next, damaged) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(digest) = digests.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(fault) = blobs.verify(digest, |count| progress.inc(count)) {
                damaged.lock().insert((*digest).to_owned(), fault);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    progress.finish_and_clear();
    damaged.into_inner()
}

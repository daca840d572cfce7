//! Hashes blobs in parallel, one thread for each processor. Taking up a blob does not read it, so a
//! damaged one would otherwise show when a container is made.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::blobs::{Blobs, Fault};
use super::plan::Plan;
use crate::admin::progress;

/// Hashes the blobs of the plan, and returns those that are damaged.
pub fn run(blobs: &Blobs, plan: &Plan) -> BTreeMap<String, Fault> {
    let digests: Vec<_> = plan.digests().into_iter().collect();
    let progress = progress::bytes("hashed", plan.extent().bytes);
    let (next, damaged) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(digest) = digests.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(fault) = blobs.verify(digest, |count| progress.inc(count))
                && let Ok(mut damaged) = damaged.lock()
            {
                damaged.insert((*digest).to_owned(), fault);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    progress.finish_and_clear();
    damaged.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

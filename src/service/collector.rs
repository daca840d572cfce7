//! Removing what has expired, as containerd's garbage collector does from 2.0 on: leases, and
//! images that no lease names, whose label `containerd.io/gc.expire` lies in the past.
//!
//! It runs when containerd's does by default: shortly after the start, after every hundred changes,
//! and when a Delete asks to wait for it (`sync`). Between those an expired image is still there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::events::Labels;
use super::message::decode;
use crate::api::images::Image;
use crate::api::leases::StoredLease;
use crate::model::{Namespace, Result};
use crate::store::records::Expiring;
use crate::store::{Change, Kind, Records};

/// The label, on images and leases.
pub const EXPIRE: &str = "containerd.io/gc.expire";

/// So many changes make it run.
const CHANGES: u64 = 100;

/// When a record with these labels expires: the label as it is.
pub fn expires(labels: &Labels) -> Option<&str> {
    labels.get(EXPIRE).map(String::as_str)
}

/// Removes what has expired by now; gives the images that went.
pub fn collect(change: &mut Change<'_>) -> Result<Vec<(Namespace, String)>> {
    let now = Timestamp::now();
    // A time that cannot be read never comes, as in containerd.
    let due = |when: &str| when.parse::<Timestamp>().is_ok_and(|when| when < now);
    let (leases, images): (Vec<_>, Vec<_>) = change
        .expiring()?
        .into_iter()
        .filter(|record| due(&record.when))
        .partition(|record| record.kind == Kind::Lease);
    for lease in leases {
        if !says_so(change, &lease, |message| {
            Ok(decode::<StoredLease>(message)?.lease.unwrap_or_default().labels)
        }) {
            continue;
        }
        change.delete(&lease.namespace, Kind::Lease, &lease.name)?;
    }
    let mut gone = Vec::new();
    for image in images {
        let says_so = says_so(change, &image, |message| Ok(decode::<Image>(message)?.labels));
        if says_so
            && !named_by_leases(change, &image.namespace)?.contains(&image.name)
            && change.delete(&image.namespace, Kind::Image, &image.name)?
        {
            gone.push((image.namespace, image.name));
        }
    }
    Ok(gone)
}

/// Whether a record itself says when it expires. The list of what expires has no checksum; records
/// have one, and nothing is removed on the word of damaged bytes.
fn says_so(
    records: &impl Records,
    noted: &Expiring,
    labels: impl Fn(&[u8]) -> Result<Labels>,
) -> bool {
    let record = records.record(&noted.namespace, noted.kind, &noted.name);
    let labels = record.and_then(|message| message.map(labels).transpose());
    labels.is_ok_and(|l| l.is_some_and(|l| expires(&l) == Some(noted.when.as_str())))
}

/// The images that leases of a namespace name.
fn named_by_leases(records: &impl Records, namespace: &Namespace) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    for entry in records.walk(namespace, Kind::Lease)? {
        let lease: StoredLease = decode(entry?.message()?)?;
        let images = lease.resources.into_iter().filter(|resource| resource.type_ == "images");
        named.extend(images.map(|resource| resource.id));
    }
    Ok(named)
}

/// Counts changes, and says when it is time.
#[derive(Debug, Default)]
pub struct Trigger {
    changes: AtomicU64,
    due: Notify,
}

impl Trigger {
    /// One more change was made.
    pub fn changed(&self) {
        if (self.changes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CHANGES) {
            self.due.notify_one();
        }
    }

    /// Waits until it is time.
    pub async fn due(&self) {
        self.due.notified().await;
    }
}

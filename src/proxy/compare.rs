//! Compares the copy of a namespace with containerd's database.
//!
//! The answer of a List comes from a snapshot of the copy. After the List began, the daemon compared each
//! record of that snapshot with the database. So containerd had each record of the answer at some moment
//! during the List. While neither the database nor the copy changes, one comparison is enough for all Lists
//! ([`ComparisonCache`]).

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::containerd::database::{Bounded, MetadataDatabase};
use crate::model::image::encoded::Encoded;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::encode;
use crate::store::{Kind, Records, Revision, Snapshot};

/// The most differing names that one comparison finds.
pub(crate) const MAX_NAMES: usize = 4096;

/// The most namespaces whose last comparison is remembered.
const MAX_REMEMBERED: usize = 1024;

/// The comparisons that found no difference.
#[derive(Debug, Default)]
pub struct ComparisonCache {
    equal: Mutex<HashMap<Namespace, Versions>>,
}

/// The versions of database and copy that a comparison saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Versions {
    /// The transaction of the database.
    transaction: u64,
    copy: Revision,
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The names of images that differ, or that only one of the two has: [`MAX_NAMES`] at most.
    pub(crate) differing: Vec<String>,
    /// The number of images in the copy.
    pub ours: usize,
    /// The transaction of the database, if the comparison read the whole namespace in one.
    transaction: Option<u64>,
}

impl ComparisonCache {
    /// Whether the last comparison of the namespace is still valid. This reads only the number of the
    /// database's transaction.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn holds(
        &self,
        database: &MetadataDatabase,
        namespace: &Namespace,
        snapshot: &Snapshot<'_>,
    ) -> Result<bool> {
        let known = self.equal.lock().get(namespace).copied();
        let Some(known) = known else { return Ok(false) };
        Ok(snapshot.revision() == known.copy && database.transaction()? == known.transaction)
    }

    /// Remembers a comparison that found no difference.
    pub(crate) fn remember(
        &self,
        namespace: &Namespace,
        snapshot: &Snapshot<'_>,
        found: &Comparison,
    ) {
        let (true, Some(transaction)) = (found.differing.is_empty(), found.transaction) else {
            return;
        };
        let mut equal = self.equal.lock();
        // A client can name any number of namespaces. After a clear, each namespace needs one more comparison.
        if equal.len() >= MAX_REMEMBERED && !equal.contains_key(namespace) {
            equal.clear();
        }
        equal.insert(namespace.clone(), Versions { transaction, copy: snapshot.revision() });
    }
}

/// Compares a namespace of the copy with the database.
///
/// # Errors
/// The database or the copy cannot be read, or `cancel` ends the comparison.
pub(crate) fn compare(
    database: &MetadataDatabase,
    namespace: &Namespace,
    snapshot: &Snapshot<'_>,
    cancel: &mut Cancel,
) -> Result<Comparison> {
    let mut found = Comparison::default();
    let mut common = 0;
    let mut theirs = Vec::new();
    let whole = walk(database, namespace, cancel, |image| {
        let record = encode(&image)?;
        let is_equal = match snapshot.record(namespace, Kind::Image, &image.name) {
            Ok(ours) => {
                common += usize::from(ours.is_some());
                ours == Some(&record)
            }
            Err(Error::DataLoss(_)) => {
                common += 1;
                false
            }
            Err(e) => return Err(e),
        };
        if !is_equal {
            found.differing.push(image.name.clone());
        }
        theirs.push(image.name);
        Ok(found.differing.len() < MAX_NAMES)
    })?;
    let Some(transaction) = whole else { return Ok(found) };
    found.transaction = transaction;
    for entry in snapshot.scan(namespace, Kind::Image)? {
        entry?;
        found.ours += 1;
    }
    if found.ours == common {
        return Ok(found);
    }
    // Compare with the names of the walk above, not with a second look at the database: containerd may have
    // created an image again meanwhile, with another record than the one in the snapshot.
    for entry in snapshot.scan(namespace, Kind::Image)? {
        cancel.check()?;
        // The name of a damaged record is unknown. The command `check` finds the record.
        let Ok(message) = entry?.message() else { continue };
        let name = Encoded::new(message).map(|image| image.name());
        let Some(name) = name.and_then(|name| std::str::from_utf8(name).ok()) else { continue };
        let is_theirs = theirs.binary_search_by(|other| other.as_str().cmp(name)).is_ok();
        if !is_theirs && found.differing.len() < MAX_NAMES {
            found.differing.push(name.to_owned());
        }
    }
    if found.differing.is_empty() {
        // Only damaged records differ, and a List leaves them out.
        found.transaction = None;
    }
    Ok(found)
}

/// Calls `each` for the images of a namespace, in order of their names, until it returns false. Returns
/// `None` if it returned false. Otherwise returns the transaction of the database, if the walk read all images
/// in one.
fn walk(
    database: &MetadataDatabase,
    namespace: &Namespace,
    cancel: &mut Cancel,
    mut each: impl FnMut(crate::model::image::Image) -> Result<bool>,
) -> Result<Option<Option<u64>>> {
    let mut from = Vec::new();
    let mut first = None;
    let mut is_one_state = true;
    loop {
        cancel.check()?;
        let max_bytes = cancel.memory() as u64;
        let Bounded::Read(step) = database.images_from(namespace, &from, max_bytes)? else {
            return Err(cancel.lack_memory(format!(
                "an image of namespace {namespace} takes more than {max_bytes} bytes"
            )));
        };
        is_one_state &= *first.get_or_insert(step.transaction) == step.transaction;
        for image in step.images {
            if !each(image)? {
                return Ok(None);
            }
        }
        match step.next {
            Some(next) => from = next,
            None => return Ok(Some(first.filter(|_| is_one_state))),
        }
    }
}

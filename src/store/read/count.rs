//! The number of images in a namespace.

use crate::model::{Namespace, Result};
use crate::store::read::state::ReadState;
use crate::store::schema::keys::{self, Kind};
use crate::store::schema::table::Table;

/// The most records of other kinds and other namespaces that a count reads, and the most changes in the overlay
/// that it looks up.
const MAX_OTHERS: usize = 1000;

/// The number of images in a namespace, damaged ones included: the number of all records, which LMDB knows, less the
/// records that are no images of the namespace. `None` if there are more than [`MAX_OTHERS`] of those: the caller then
/// reads the images.
///
/// Most nodes have nearly all images in one namespace. A scan of 100,000 images waits for memory 100,000 times.
pub(crate) fn count_images(
    state: &(impl ReadState + ?Sized),
    namespace: &Namespace,
) -> Result<Option<u64>> {
    let view = state.view();
    if view.overlay.count(Table::Records) > MAX_OTHERS {
        return Ok(None);
    }
    let first = keys::prefix(namespace, Kind::Image);
    let Some((last, head)) = first.split_last() else { return Ok(None) };
    // The first key behind all that begin like `first`, which ends with a slash.
    let behind = [head, &[last + 1]].concat();
    let before = view
        .range_from(Table::Records, b"")?
        .take_while(|pair| !matches!(pair, Ok((key, _)) if *key >= first.as_slice()));
    let others = before
        .chain(view.range_from(Table::Records, &behind)?)
        .take(MAX_OTHERS + 1)
        .try_fold(0_usize, |count, pair| pair.map(|_| count + 1))?;
    if others > MAX_OTHERS {
        return Ok(None);
    }
    Ok(Some(view.len(Table::Records)?.saturating_sub(others as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::engine::transaction::Transaction;
    use crate::store::{Records, Store};

    const NAMESPACES: [&str; 3] = ["default", "default2", "k8s.io"];

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn write(
        store: &Store,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<()> + Send + 'static,
    ) {
        store.writer().write_blocking(work).unwrap();
    }

    fn namespaces() -> impl Iterator<Item = Namespace> {
        NAMESPACES.into_iter().map(|name| Namespace::parse(name).unwrap())
    }

    /// The counts of all namespaces, each beside the number of images that a scan finds.
    fn counts(store: &Store) -> Vec<(Option<u64>, u64)> {
        let counts = |snapshot: &crate::store::Snapshot<'_>| {
            namespaces()
                .map(|namespace| {
                    let scanned = snapshot.scan(&namespace, Kind::Image)?.count() as u64;
                    Ok((snapshot.count_images(&namespace)?, scanned))
                })
                .collect()
        };
        store.read(counts).unwrap()
    }

    #[test]
    fn the_count_is_that_of_a_scan_in_the_overlay_and_in_the_file() {
        let (_dir, store) = store();
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..40 {
            let seed = rng.fork();
            write(&store, move |change| {
                let mut rng = seed;
                for namespace in namespaces() {
                    for _ in 0..rng.usize(0..20) {
                        let kind = if rng.u8(0..4) == 0 { Kind::Lease } else { Kind::Image };
                        let name = format!("{}{}", rng.u8(0..30), "x".repeat(rng.usize(0..400)));
                        if rng.u8(0..3) == 0 {
                            change.delete(&namespace, kind, &name)?;
                        } else {
                            change.put(&namespace, kind, &name, b"", None)?;
                        }
                    }
                }
                Ok(())
            });
            if round % 3 == 0 {
                store.checkpoint().unwrap();
            }
            for (count, scanned) in counts(&store) {
                assert_eq!(count, Some(scanned), "round {round}");
            }
        }
    }

    #[test]
    fn with_many_other_records_the_images_are_read() {
        let (_dir, store) = store();
        let many = Namespace::parse("default2").unwrap();
        write(&store, move |change| {
            for number in 0..=MAX_OTHERS {
                change.put(&many, Kind::Image, &number.to_string(), b"", None)?;
            }
            Ok(())
        });
        store.checkpoint().unwrap();
        let number = MAX_OTHERS as u64 + 1;
        assert_eq!(counts(&store), [(None, 0), (Some(number), number), (None, 0)]);
    }
}

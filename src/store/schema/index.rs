//! The index: which images have a digest, or a label with its value.
//!
//! Filters select by name, digest or label. Names need no index, because records are in the order of
//! their names. `docs/architecture.md` has the cost of the index for a write and its gain for a List.
//!
//! One database holds all entries, because every database costs a write a path of pages of its own. An
//! entry is a key with an empty value:
//!
//! ```text
//! d <namespace> <digest> <name>       the digest of the target is this
//! l <namespace, key, value> <name>    the label is there with this value
//! o <namespace> <name>                unindexed: always a candidate
//! ```
//!
//! - `<name>` is the end of the record's key, behind `/images/`: a long name is cut and hashed there
//!   (`schema`). So entries with one beginning are in the order of the records.
//! - `<namespace>` and `<namespace, key, value>` are eight bytes of a SHA-256: keys in LMDB have 511
//!   bytes at most.
//! - `<digest>` is the first [`DIGEST_PREFIX_BYTES`] bytes of the digest as text, zeros behind a shorter one: in
//!   the order of digests, so that a prefix of a digest can be looked up.
//!
//! So an entry may belong to an image with another digest or label: **an entry says where to look, the
//! record decides.** But no entry is missing: every stored image has all of its [`entries`]. When a
//! damaged record is overwritten or removed, its old entries cannot be computed and remain; they are
//! harmless, because every candidate is checked against the filter.
//!
//! An image is *unindexed* if it has more than [`MAX_INDEXED_LABELS`] labels, so that one small request
//! cannot make the index grow without bound; or if its message is not one that this program writes.

use crate::store::schema::keys;
use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::model::image::encoded::Encoded;

/// The number of bytes of a digest in an entry: `sha256:`, and 68 bits.
pub(crate) const DIGEST_PREFIX_BYTES: usize = 24;

/// Images with more labels than this are unindexed.
pub(crate) const MAX_INDEXED_LABELS: usize = 64;

const DIGEST: u8 = b'd';
const LABEL: u8 = b'l';
const UNINDEXED: u8 = b'o';

/// All index keys of the record `message` under `key`; none if the record is no image. The result depends
/// on nothing else, so an audit can compare it with the index.
pub fn entries(key: &[u8], message: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut entries = BTreeSet::new();
    let Some((namespace, name)) = keys::image_key(key) else { return entries };
    let mut enter = |beginning: Vec<u8>| entries.insert([&beginning, name].concat());
    let Some(image) = Encoded::new(message) else {
        enter(unindexed(namespace));
        return entries;
    };
    if !image.digest().is_empty() {
        enter(digest(namespace, image.digest()));
    }
    if image.labels().nth(MAX_INDEXED_LABELS).is_some() {
        enter(unindexed(namespace));
    } else {
        for (key, value) in image.labels() {
            enter(label(namespace, key, value));
        }
    }
    entries
}

/// The end of the record's key in an entry.
pub fn name(entry: &[u8]) -> Option<&[u8]> {
    entry.get(if entry.first() == Some(&DIGEST) { 9 + DIGEST_PREFIX_BYTES } else { 9 }..)
}

/// The prefix of the entries of images with this digest.
pub fn digest(namespace: &[u8], digest: &[u8]) -> Vec<u8> {
    let mut head = [0; DIGEST_PREFIX_BYTES];
    for (to, from) in head.iter_mut().zip(digest) {
        *to = *from;
    }
    entry_prefix(DIGEST, &[namespace], &head)
}

/// The prefix of the entries of images whose digest has this prefix.
pub(crate) fn digest_prefix(namespace: &[u8], prefix: &[u8]) -> Vec<u8> {
    entry_prefix(DIGEST, &[namespace], prefix.get(..DIGEST_PREFIX_BYTES).unwrap_or(prefix))
}

/// The prefix of the entries of images with this label.
pub fn label(namespace: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    entry_prefix(LABEL, &[namespace, key, value], b"")
}

/// The prefix of the entries of unindexed images.
pub(crate) fn unindexed(namespace: &[u8]) -> Vec<u8> {
    entry_prefix(UNINDEXED, &[namespace], b"")
}

fn entry_prefix(field: u8, hashed: &[&[u8]], head: &[u8]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in hashed {
        // With its length: parts of another cut are others.
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    let hash = hasher.finalize();
    let mut key = vec![field];
    key.extend(hash.iter().take(8));
    key.extend_from_slice(head);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::Image;
    use crate::model::Namespace;
    use crate::store::{Kind, Store, Transaction};
    use proptest::prelude::*;
    use protobuf::Message;

    fn image(labels: usize, digest: &str) -> Vec<u8> {
        let labels = (0..labels).map(|i| (format!("{i:02}"), "v".repeat(4000))).collect();
        let mut image = Image { labels, ..Image::default() };
        image.target.mut_or_insert_default().digest = digest.into();
        image.write_to_bytes().unwrap()
    }

    #[test]
    fn no_entry_is_longer_than_lmdb_takes() {
        let namespace = Namespace::parse(&"n".repeat(76)).unwrap();
        let digest = format!("sha512:{}", "a".repeat(128));
        for length in [1, keys::NAME_PREFIX_BYTES, 40_000] {
            let key = keys::key(&namespace, Kind::Image, &"x".repeat(length));
            let entries = entries(&key, &image(3, &digest));
            assert_eq!(entries.len(), 4);
            assert!(entries.iter().all(|entry| entry.len() <= 511));
        }
    }

    #[test]
    fn each_label_and_the_digest_have_an_entry_unless_there_are_too_many() {
        let key = b"v1/n/images/i";
        assert_eq!(entries(key, b"").len(), 0);
        assert_eq!(entries(key, &image(2, "")).len(), 2);
        assert_eq!(entries(key, &image(MAX_INDEXED_LABELS, "d")).len(), MAX_INDEXED_LABELS + 1);
        let many = entries(key, &image(MAX_INDEXED_LABELS + 1, "d"));
        assert_eq!(
            many.into_iter().collect::<Vec<_>>(),
            [
                [digest(b"n", b"d"), b"i".to_vec()].concat(),
                [unindexed(b"n"), b"i".to_vec()].concat()
            ]
        );
        let not_ours = entries(key, b"\xff");
        assert_eq!(
            not_ours.into_iter().collect::<Vec<_>>(),
            [[unindexed(b"n"), b"i".to_vec()].concat()]
        );
    }

    #[test]
    fn only_images_are_entered() {
        for key in [&b"v1/n"[..], b"v1/n/leases/i", b"v2/n/images/i", b"v1/n/images"] {
            assert_eq!(entries(key, &image(2, "d")).len(), 0);
        }
    }

    #[test]
    fn digests_are_in_order_and_known_by_their_beginning() {
        let long = |end: &str| [b"sha256:0123456789abcdef0123".as_slice(), end.as_bytes()].concat();
        assert!(digest(b"n", b"sha256:a") < digest(b"n", b"sha256:b"));
        assert!(digest(b"n", b"sha256:ab").starts_with(&digest_prefix(b"n", b"sha256:a")));
        assert!(digest(b"n", &long("4")).starts_with(&digest_prefix(b"n", &long("4567"))));
        assert_ne!(digest(b"n", b"d"), digest(b"m", b"d"));
        assert_ne!(label(b"n", b"a", b"bc"), label(b"n", b"ab", b"c"));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Kind, usize, Vec<u8>),
        Delete(Kind, usize),
        SetAside(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = || prop::sample::select(vec![Kind::Image, Kind::Lease]);
        let message = prop_oneof![
            4 => (0..3usize, 0..3u8).prop_map(|(labels, digest)| image(labels, &digest.to_string())),
            1 => Just(image(MAX_INDEXED_LABELS + 1, "d")),
            1 => Just(b"\xff".to_vec()),
        ];
        prop_oneof![
            3 => (kind(), 0..6usize, message).prop_map(|(kind, at, image)| Step::Put(kind, at, image)),
            1 => (kind(), 0..6usize).prop_map(|(kind, at)| Step::Delete(kind, at)),
            1 => (0..6usize).prop_map(Step::SetAside),
        ]
    }

    /// Two namespaces, three names, one of them long.
    fn place(at: usize) -> (Namespace, String) {
        let namespace = Namespace::parse(["n", "m"][at % 2]).unwrap();
        (namespace, ["a".into(), "b".into(), "x".repeat(1000)][at / 2].clone())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn after_any_changes_the_index_is_all_entries_of_the_records(
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let change = move |change: &mut Transaction<'_>| {
                for step in &steps {
                    match step {
                        Step::Put(kind, at, image) => {
                            let (namespace, name) = place(*at);
                            change.put(&namespace, *kind, &name, image, None)?;
                        }
                        Step::Delete(kind, at) => {
                            let (namespace, name) = place(*at);
                            change.delete(&namespace, *kind, &name)?;
                        }
                        Step::SetAside(at) => {
                            let (namespace, name) = place(*at);
                            change.set_aside(&namespace, Kind::Image, &name)?;
                        }
                    }
                }
                Ok(())
            };
            store.writer().write_blocking(change).unwrap();
            let opened = store.environment.acquire().unwrap();
            let (txn, tables) = (opened.env.read_txn().unwrap(), &opened.tables);
            let records = tables.records.iter(&txn).unwrap().map(|record| {
                let (key, value) = record.unwrap();
                entries(key, crate::store::schema::value::decode(key, value).unwrap())
            });
            let expected: BTreeSet<_> = records.flatten().collect();
            let index = tables.index.iter(&txn).unwrap().map(|entry| entry.unwrap().0.to_vec());
            prop_assert_eq!(index.collect::<BTreeSet<_>>(), expected);
        }
    }
}

//! Compares the log of changes with the listed images and with the calls of clients.

use std::collections::{BTreeMap, BTreeSet};

use lmdb_images::api::catalog::{Change, State};
use lmdb_images::api::images::Image;
use lmdb_images::model::Namespace;
use lmdb_images::store::{Kind, Records, Snapshot};
use protobuf::Message;

use crate::support::workload::{Content, NAMESPACE, content};

/// Whether a change that was asked for must be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// It was answered.
    Made,
    /// It is unknown whether it was made.
    InDoubt,
}

/// The image of that name in a state, encoded as a List has it.
fn record(name: &str, state: &State) -> Vec<u8> {
    let mut image = Image::parse_from_bytes(&state.write_to_bytes().unwrap()).unwrap();
    image.name = name.into();
    image.write_to_bytes().unwrap()
}

/// Whether two images of the log are the same. Of large states the log has only the digest of the target, so
/// that more cannot be compared.
fn agree(one: Option<&Vec<u8>>, other: Option<&Vec<u8>>) -> bool {
    let digest = |record: &Vec<u8>| Image::parse_from_bytes(record).unwrap().target.digest.clone();
    let has_digest_only = |record: Option<&Vec<u8>>| {
        record.is_some_and(|record| {
            let image = Image::parse_from_bytes(record).unwrap();
            image.created_at.is_none() && image.target.media_type.is_empty()
        })
    };
    if has_digest_only(one) || has_digest_only(other) {
        return one.map(digest) == other.map(digest);
    }
    one == other
}

/// Returns all changes of the log: a name, and its image afterwards. Checks that no number is missing, and that the log,
/// replayed over a store without images, leads to the listed images; byte for byte where the log has whole states.
pub fn replay(snapshot: &Snapshot<'_>, namespace: &str) -> Vec<(String, Option<Image>)> {
    let head = snapshot.log_head().unwrap().expect("the log is on");
    assert_eq!(head.first, 1, "the log must be long enough for all changes of the test");
    let (mut changes, mut images) = (Vec::new(), BTreeMap::new());
    let mut replay = |seq, entry: &[u8]| {
        let change = Change::parse_from_bytes(entry).unwrap();
        let next = changes.len() as u64 + 1;
        assert_eq!((seq, change.seq, change.namespace.as_str()), (next, next, namespace));
        let name = change.name.clone();
        let before = images.get(&name).cloned();
        let logged = change.before.as_ref().map(|state| record(&name, state));
        assert!(agree(logged.as_ref(), before.as_ref()), "{change}");
        let after = change.after.as_ref().map(|state| record(&name, state));
        let image = after.as_ref().map(|record| Image::parse_from_bytes(record).unwrap());
        changes.push((name.clone(), image));
        match after {
            Some(record) => drop(images.insert(name, record)),
            None => drop(images.remove(&name)),
        }
        Ok(true)
    };
    snapshot.for_each_entry(0, &mut replay).unwrap();
    assert_eq!(changes.len() as u64, head.last);
    let listed: BTreeMap<_, _> = snapshot
        .scan(&Namespace::parse(namespace).unwrap(), Kind::Image)
        .unwrap()
        .map(|entry| {
            let message = entry.unwrap().message().unwrap().to_vec();
            (Image::parse_from_bytes(&message).unwrap().name, message)
        })
        .collect();
    let names: BTreeSet<_> = images.keys().chain(listed.keys()).collect();
    for name in names {
        let (logged, listed) = (images.get(name), listed.get(name));
        assert!(agree(logged, listed), "the log leads to another image {name:?} than is listed");
    }
    changes
}

/// The contents that each name had one after the other, by the log, which is [replayed](replay).
pub fn logged(snapshot: &Snapshot<'_>) -> BTreeMap<String, Vec<Content>> {
    let mut contents: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, image) in replay(snapshot, NAMESPACE) {
        contents.entry(name).or_default().push(image.as_ref().map(content));
    }
    contents
}

/// Whether the log of one name agrees with the calls for it, in order: it has each change that was made once, a change
/// in doubt at most once, and nothing else.
pub fn explains(asked: impl Iterator<Item = (Content, Is)>, logged: &[Content]) -> bool {
    let mut ends = vec![0_usize];
    for (content, is) in asked {
        let is_next = |end: &&usize| logged.get(**end) == Some(&content);
        let mut with: Vec<_> = ends.iter().filter(is_next).map(|end| end + 1).collect();
        if is == Is::InDoubt {
            with.extend(&ends);
        }
        with.sort_unstable();
        with.dedup();
        ends = with;
    }
    ends.contains(&logged.len())
}

#[test]
fn a_log_that_misses_repeats_or_reorders_a_change_is_not_explained() {
    use Is::{InDoubt, Made};
    let asked =
        [(Some(1), Made), (None, InDoubt), (None, Made), (Some(2), InDoubt), (Some(3), Made)];
    let explained = |logged: &[Content]| explains(asked.into_iter(), logged);
    for good in [&[Some(1), None, Some(3)][..], &[Some(1), None, None, Some(2), Some(3)]] {
        assert!(explained(good), "{good:?}");
    }
    for bad in [
        &[][..],
        &[Some(1), Some(3)],
        &[None, Some(3)],
        &[Some(1), None, Some(3), Some(3)],
        &[Some(1), None, Some(3), Some(2)],
        &[Some(1), None, Some(2)],
    ] {
        assert!(!explained(bad), "{bad:?}");
    }
}

//! Rot in the journal of a store whose process was ended: bits of it are turned over, one at a time. The store
//! is refused, with a sentence that names `recover`, or everything in it is as it was written. Only a damaged last
//! entry looks like one that was never finished. `recover` saves all others.

use std::path::Path;

use lmdb_images::admin::recover;
use lmdb_images::api::images::Image;
use lmdb_images::model::{Error, Namespace};
use lmdb_images::store::{Kind, Records, Store, Transaction};
use protobuf::Message;

fn namespace() -> Namespace {
    Namespace::parse("rot").unwrap()
}

fn message(name: &str, version: usize) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    image.target.mut_or_insert_default().digest = format!("sha256:{version:064x}");
    image.write_to_bytes().unwrap()
}

/// A store whose last changes are in the journal only, as a power cut leaves it, and their names.
fn unfinished(root: &Path) -> Vec<String> {
    let names: Vec<_> = (0..12).map(|i| format!("registry.example/recent-{i:02}:1")).collect();
    loop {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for (version, name) in names.iter().enumerate() {
            let (name, new) = (name.clone(), message(name, version + 1));
            let put =
                move |c: &mut Transaction<'_>| c.put(&namespace(), Kind::Image, &name, &new, None);
            store.writer().write_blocking(put).unwrap();
        }
        for file in ["data.mdb", "journal"] {
            std::fs::copy(dir.path().join(file), root.join(file)).unwrap();
        }
        let data = std::fs::read(root.join("data.mdb")).unwrap();
        // Unless there was a checkpoint just then.
        if !data.windows(6).any(|bytes| bytes == b"recent") {
            return names;
        }
    }
}

fn images(store: &Store) -> Vec<String> {
    let read = store.read(|snapshot| {
        let walk = snapshot.scan(&namespace(), Kind::Image)?;
        walk.map(|entry| Ok(Image::parse_from_bytes(entry?.message()?).unwrap().name)).collect()
    });
    read.unwrap()
}

#[test]
fn a_damaged_journal_is_refused_but_for_its_last_entry() {
    let origin = tempfile::tempdir().unwrap();
    let names = unfinished(origin.path());
    let good = std::fs::read(origin.path().join("journal")).unwrap();
    let starts = good.chunks(512).enumerate().filter(|(_, s)| s.starts_with(b"lmdbimj2"));
    let starts: Vec<_> = starts.map(|(number, _)| number * 512).collect();
    assert_eq!(starts.len(), names.len());
    let (mut refused, mut last) = (0, 0);
    // Each bit of a byte is met, in all parts of an entry.
    for at in (0..starts[11] + 512).step_by(97) {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        for (file, content) in [("journal", &bad), ("data.mdb", &bytes(origin.path(), "data.mdb"))]
        {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        // None in the header.
        let entry = starts.iter().filter(|start| **start <= at).count().checked_sub(1);
        let left: Vec<_> = names
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != entry)
            .map(|(_, n)| n.clone())
            .collect();
        let saved = tempfile::tempdir().unwrap();
        recover::run(dir.path(), Some(saved.path())).unwrap();
        let saved = images(&Store::open(saved.path()).unwrap());
        match Store::open(dir.path()) {
            Err(Error::DataLoss(why)) if why.contains("recover") => {
                assert!(entry < Some(11), "entry {entry:?}: {why}");
                assert_eq!(saved, left);
                assert_eq!(bytes(dir.path(), "journal"), bad);
                refused += 1;
            }
            Ok(store) if images(&store) == names => assert_eq!(saved, names),
            Ok(store) => {
                assert_eq!((images(&store), entry), (left, Some(11)));
                last += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 20 && last > 0, "{refused} refused, {last} times the last entry");
}

fn bytes(root: &Path, file: &str) -> Vec<u8> {
    std::fs::read(root.join(file)).unwrap()
}

//! The live reader over the files of real containerds, and over what is no such file.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bbolt_read::{Damage, FileAtRest, LiveError, LiveFile, LiveReader, Value};
use rustix::fs::{CWD, Mode};

const HELLO: &[&[u8]] = &[b"v1", b"one", b"images", b"hello"];
const PAGE: usize = 4096;

fn bytes(version: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let packed = fs::File::open(data.join(format!("containerd-{version}.meta.db.gz"))).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("meta.db");
    fs::write(&path, bytes).unwrap();
    path
}

/// The page whose meta page is the newer one.
fn newest(bytes: &[u8]) -> usize {
    let txid = |page: usize| &bytes[page * PAGE + 64..page * PAGE + 72];
    usize::from(txid(1) > txid(0))
}

#[test]
fn files_of_real_containerds_are_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1.6.20", "1.7.24", "2.1.9"] {
        let live = LiveFile::open(file(folder.path(), &bytes(version))).unwrap();
        assert_eq!(live.page_size(), 4096);
        let target = [HELLO, &[b"target"]].concat();
        let digest = live.lookup(&target, b"digest").unwrap();
        let expected = format!("sha256:{:064x}", 1).into_bytes();
        assert_eq!((digest.value, digest.tries), (Some(expected), 1), "{version}");
        assert_eq!(digest.txid, live.txid().unwrap());
        // A bucket is no value, a value no bucket, and neither is there under another name.
        assert_eq!(live.lookup(HELLO, b"target").unwrap().value, None);
        assert_eq!(live.lookup(&target, b"none").unwrap().value, None);
        assert_eq!(live.lookup(&[b"v2"], b"version").unwrap().value, None);
        assert!(live.bucket_exists(HELLO).unwrap().value);
        assert!(!live.bucket_exists(&[b"v1", b"version"]).unwrap().value);
        let read = live.read(|snapshot| {
            let images = snapshot.bucket(&[b"v1", b"many", b"images"])?.unwrap();
            let all: Vec<_> = snapshot.entries(&images).collect::<Result<_, _>>()?;
            for entry in &all {
                assert_eq!(snapshot.get(&images, &entry.key)?.as_ref(), Some(&entry.value));
            }
            let from: Vec<_> =
                snapshot.entries_from(&images, &all[7].key).take(3).collect::<Result<_, _>>()?;
            assert_eq!(from, all[7..10]);
            Ok(all.len())
        });
        assert_eq!(read.unwrap().value, 20);
    }
}

#[test]
fn a_read_of_too_many_bytes_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let live = LiveFile::open(file(folder.path(), &bytes("2.1.9"))).unwrap();
    let count = |max_bytes: u64| {
        live.read_at_most(max_bytes, |snapshot| {
            let images = snapshot.bucket(&[b"v1", b"many", b"images"])?.unwrap();
            let all: Vec<_> = snapshot.entries(&images).collect::<Result<_, _>>()?;
            Ok((all.len(), snapshot.bytes_read()))
        })
    };
    let (all, bytes_read) = count(u64::MAX).unwrap().value;
    assert!(all > 0 && bytes_read > 3 * PAGE as u64, "{bytes_read}");
    assert_eq!(count(bytes_read).unwrap().value, (all, bytes_read));
    for max_bytes in [0, PAGE as u64, bytes_read - 1] {
        let ended = count(max_bytes).unwrap_err();
        assert!(matches!(ended, LiveError::TooLarge { max_bytes: named } if named == max_bytes));
    }
}

#[test]
fn a_file_at_rest_and_a_live_one_show_the_same() {
    let bytes = bytes("2.1.9");
    let at_rest = FileAtRest::open(bytes.as_slice()).unwrap();
    let live = LiveReader::new(bytes.as_slice()).unwrap();
    let keys = |entries: Vec<bbolt_read::Entry>| -> Vec<_> {
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    };
    let expected: Vec<_> =
        at_rest.snapshot().entries(&at_rest.snapshot().root()).collect::<Result<_, _>>().unwrap();
    let read =
        live.read(|snapshot| Ok(snapshot.entries(&snapshot.root()).collect::<Result<_, _>>()?));
    assert_eq!(keys(read.unwrap().value), keys(expected));
    assert_eq!(live.txid().unwrap(), at_rest.snapshot().txid());
}

#[test]
fn a_torn_meta_page_leaves_the_state_before() {
    let mut bytes = bytes("1.6.20");
    let newest = newest(&bytes);
    let txid = LiveReader::new(bytes.as_slice()).unwrap().txid().unwrap();
    bytes[newest * PAGE + 70] ^= 1;
    let live = LiveReader::new(bytes.as_slice()).unwrap();
    assert_eq!(live.txid().unwrap(), txid - 1);
    assert!(live.bucket_exists(HELLO).unwrap().value);
    bytes[(1 - newest) * PAGE + 70] ^= 1;
    let refused = LiveReader::new(bytes.as_slice()).unwrap_err();
    let expected = "the file is damaged: page 0: the checksum of this meta page is wrong";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn damage_is_told_with_its_page() {
    let mut bytes = bytes("1.6.20");
    let root = LiveReader::new(bytes.as_slice()).unwrap();
    let page = root.read(|snapshot| {
        let names = snapshot.bucket(&[b"v1", b"many", b"images"])?.unwrap();
        Ok(snapshot.entries(&names).next().unwrap()?.page)
    });
    let page = usize::try_from(page.unwrap().value).unwrap();
    bytes[page * PAGE] ^= 0xff;
    let live = LiveReader::new(bytes.as_slice()).unwrap();
    let read = live.read(|snapshot| {
        let images = snapshot.bucket(&[b"v1", b"many", b"images"])?.unwrap();
        let entries: Result<Vec<_>, _> = snapshot.entries(&images).collect();
        Ok(entries?.len())
    });
    match read {
        Err(LiveError::Damaged(Damage { page: damaged, what })) => {
            assert_eq!(damaged, page as u64);
            assert!(what.starts_with("it says that it is page "), "{what}");
        }
        other => panic!("{other:?}"),
    }
    // What lies elsewhere is read.
    assert!(live.bucket_exists(HELLO).unwrap().value);
}

#[test]
fn another_file_under_the_path_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &bytes("1.6.20"));
    let live = LiveFile::open(&path).unwrap();
    assert!(live.is_current_path().unwrap());
    assert_ne!(live.file_system_type().unwrap(), 0);
    let other = folder.path().join("other");
    fs::copy(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(!live.is_current_path().unwrap());
    assert!(LiveFile::open(&path).unwrap().is_current_path().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(!live.is_current_path().unwrap());
    // The open file is read all the same.
    assert!(live.bucket_exists(HELLO).unwrap().value);
}

#[test]
fn links_pipes_and_missing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), &bytes("1.6.20"));
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    let refused = |path: &Path| LiveFile::open(path).unwrap_err().to_string();
    assert!(refused(&link).starts_with("the file cannot be opened: Too many levels of symbolic"));
    assert!(refused(&folder.path().join("none")).contains("No such file"));
    assert_eq!(refused(folder.path()), "the path leads to no regular file");
    assert_eq!(refused(&pipe), "the path leads to no regular file");
    fs::write(&path, "").unwrap();
    assert!(refused(&path).contains("page 0: this meta page cannot be read"));
    fs::write(&path, [7; 3 * PAGE]).unwrap();
    assert!(refused(&path).contains("page 0: this is no bolt file"));
}

#[test]
fn a_bucket_as_a_value_is_told_apart() {
    let bytes = bytes("1.6.20");
    let live = LiveReader::new(bytes.as_slice()).unwrap();
    let read = live.read(|snapshot| snapshot.get(&snapshot.bucket(HELLO)?.unwrap(), b"target"));
    assert!(matches!(read.unwrap().value, Some(Value::Bucket(_))));
}

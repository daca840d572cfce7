//! Against files that bbolt itself writes, in the versions that containerd 1.6.20, 1.7.24 and 2.1.9
//! name: what is read is what was written, at rest and while it is written. The writer is
//! `tests/go`; without Go on the machine these tests say so and do nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use bbolt_read::{Bucket, Damage, FileAtRest, LiveError, LiveFile, ReadAt, Snapshot, Value};
use proptest::prelude::*;

const VERSIONS: [(&str, &str); 3] =
    [("1.3.6", "bbolt-1.3.6.mod"), ("1.3.10", "bbolt-1.3.10.mod"), ("1.4.0", "go.mod")];
const PAGE_SIZES: [u64; 4] = [1024, 4096, 16_384, 65_536];

/// The writer of each version, built once; nothing without Go.
fn writers() -> Option<&'static [PathBuf]> {
    static WRITERS: OnceLock<Option<Vec<PathBuf>>> = OnceLock::new();
    let built = WRITERS.get_or_init(|| {
        if Command::new("go").arg("version").output().is_err() {
            println!("not tried: Go is not there, and with it bbolt itself");
            return None;
        }
        let build = |(version, modules): &(&str, &str)| {
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bbolt-{version}"));
            let built = Command::new("go")
                .args(["build", &format!("-modfile={modules}"), "-o"])
                .arg(&program)
                .arg(".")
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go"))
                .status()
                .unwrap();
            assert!(built.success(), "the writer of bbolt {version} does not build");
            program
        };
        Some(VERSIONS.iter().map(build).collect())
    });
    built.as_deref()
}

type Contents = BTreeMap<Vec<u8>, Held>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Bytes(Vec<u8>),
    Bucket(Contents),
}

/// Everything in a bucket.
fn contents<S: ReadAt + ?Sized>(
    snapshot: &Snapshot<'_, S>,
    bucket: &Bucket,
) -> Result<Contents, Damage> {
    let mut all = Contents::new();
    for entry in snapshot.entries(bucket) {
        let entry = entry?;
        let held = match &entry.value {
            Value::Bytes(bytes) => Held::Bytes(bytes.clone()),
            Value::Bucket(inner) => Held::Bucket(contents(snapshot, inner)?),
        };
        all.insert(entry.key, held);
    }
    Ok(all)
}

/// Each key found by itself, and none beside it; walks from each key on.
fn look_up(
    snapshot: &Snapshot<'_, std::fs::File>,
    path: &[&[u8]],
    expected: &Contents,
) -> Result<(), Damage> {
    let bucket = snapshot.bucket(path)?.unwrap();
    for (key, held) in expected {
        let found = snapshot.get(&bucket, key)?;
        match held {
            Held::Bytes(bytes) => {
                assert!(found == Some(Value::Bytes(bytes.clone())), "{:?}", key.get(..8));
            }
            Held::Bucket(inner) => {
                assert!(matches!(found, Some(Value::Bucket(_))));
                look_up(snapshot, &[path, &[key]].concat(), inner)?;
            }
        }
        let near = [key.as_slice(), b"\0"].concat();
        for from in [key.clone(), near.clone(), key[..key.len() / 2].to_vec()] {
            let walked = snapshot.entries_from(&bucket, &from).take(3);
            let walked: Vec<_> =
                walked.map(|entry| Ok(entry?.key)).collect::<Result<_, Damage>>()?;
            let keys: Vec<_> = expected.range(from..).take(3).map(|(key, _)| key.clone()).collect();
            assert_eq!(walked, keys);
        }
        assert_eq!(snapshot.get(&bucket, &near)?.is_some(), expected.contains_key(&near));
    }
    assert_eq!(snapshot.get(&bucket, b"")?, None);
    assert_eq!(snapshot.get(&bucket, b"\xff\xff")?, None);
    Ok(())
}

#[derive(Debug, Clone)]
enum Change {
    /// `count` keys from this one on, with values of that size.
    Put {
        path: Vec<u8>,
        first: u8,
        count: u8,
        key_size: usize,
        value_size: usize,
    },
    Delete {
        path: Vec<u8>,
        first: u8,
        count: u8,
        key_size: usize,
    },
    Bucket {
        path: Vec<u8>,
    },
    Drop {
        path: Vec<u8>,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let path = || prop::collection::vec(0..3u8, 1..4);
    let key_size = || prop_oneof![3 => Just(4usize), 1 => Just(300), 1 => Just(2000)];
    let value_size = prop_oneof![4 => 0..40usize, 2 => 0..3000usize, 1 => 0..200_000usize];
    prop_oneof![
        6 => (path(), 0..200u8, 1..40u8, key_size(), value_size).prop_map(
            |(path, first, count, key_size, value_size)|
                Change::Put { path, first, count, key_size, value_size }),
        2 => (path(), 0..200u8, 1..40u8, key_size()).prop_map(
            |(path, first, count, key_size)| Change::Delete { path, first, count, key_size }),
        2 => path().prop_map(|path| Change::Bucket { path }),
        1 => path().prop_map(|path| Change::Drop { path }),
    ]
}

fn bucket_name(number: u8) -> Vec<u8> {
    vec![b'B', number]
}

fn key(number: u8, size: usize) -> Vec<u8> {
    let mut key = vec![b'k'; size];
    key[1] = number;
    key
}

fn inside<'c>(contents: &'c mut Contents, path: &[u8]) -> &'c mut Contents {
    path.iter().fold(contents, |contents, number| {
        let held =
            contents.entry(bucket_name(*number)).or_insert_with(|| Held::Bucket(Contents::new()));
        match held {
            Held::Bucket(inner) => inner,
            Held::Bytes(_) => panic!("keys and buckets have names of their own"),
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Makes the change here, and says it to the writer.
fn apply(change: &Change, contents: &mut Contents, lines: &mut String) {
    let written = |path: &[u8]| {
        path.iter().map(|number| hex(&bucket_name(*number))).collect::<Vec<_>>().join(",")
    };
    match change {
        Change::Put { path, first, count, key_size, value_size } => {
            for number in *first..first + count {
                let (key, value) = (key(number, *key_size), vec![number; *value_size]);
                writeln!(lines, "put {} {} {}", written(path), hex(&key), hex(&value)).unwrap();
                inside(contents, path).insert(key, Held::Bytes(value));
            }
        }
        Change::Delete { path, first, count, key_size } => {
            for number in *first..first + count {
                let key = key(number, *key_size);
                writeln!(lines, "delete {} {}", written(path), hex(&key)).unwrap();
                inside(contents, path).remove(&key);
            }
        }
        Change::Bucket { path } => {
            writeln!(lines, "bucket {}", written(path)).unwrap();
            inside(contents, path);
        }
        Change::Drop { path } => {
            writeln!(lines, "drop {}", written(path)).unwrap();
            let (last, parent) = path.split_last().unwrap();
            inside(contents, parent).remove(&bucket_name(*last));
        }
    }
}

fn build(writer: &Path, page_size: u64, transactions: &[(Vec<Change>, bool)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.db");
    let (mut contents_now, mut lines) = (Contents::new(), String::new());
    for (changes, commits) in transactions {
        lines += "begin\n";
        let mut after = contents_now.clone();
        for change in changes {
            apply(change, &mut after, &mut lines);
        }
        if *commits {
            contents_now = after;
        }
        lines += if *commits { "commit\n" } else { "rollback\n" };
    }
    let mut child = Command::new(writer)
        .arg("build")
        .arg(&path)
        .arg(page_size.to_string())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());

    let bytes = std::fs::read(&path).unwrap();
    let at_rest = FileAtRest::open(bytes.as_slice()).unwrap();
    assert_eq!(at_rest.other_meta(), None);
    let snapshot = at_rest.snapshot();
    assert_eq!(contents(snapshot, &snapshot.root()).unwrap(), contents_now);
    let live = LiveFile::open(&path).unwrap();
    assert_eq!(live.page_size(), page_size);
    let read = live.read(|snapshot| {
        look_up(snapshot, &[], &contents_now)?;
        contents(snapshot, &snapshot.root())
    });
    let read = read.unwrap();
    assert_eq!((read.value, read.tries), (contents_now, 1));
    assert_eq!(read.txid, live.txid().unwrap());
}

#[test]
fn files_of_bbolt_are_read() {
    let Some(writers) = writers() else { return };
    let transactions = prop::collection::vec(
        (prop::collection::vec(change(), 0..6), prop::bool::weighted(0.8)),
        0..6,
    );
    let cases = std::env::var("PROPTEST_CASES").map_or(24, |n| n.parse().unwrap());
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let which = (0..writers.len(), 0..PAGE_SIZES.len());
    proptest!(config, |((writer, page_size) in which, transactions in transactions)| {
        build(&writers[writer], PAGE_SIZES[page_size], &transactions);
    });
}

/// The number that all values of both buckets show.
fn number<S: ReadAt>(snapshot: &Snapshot<'_, S>) -> Result<Option<u64>, Damage> {
    let mut shown = None;
    for name in [&b"large"[..], b"inline"] {
        let Some(bucket) = snapshot.bucket(&[name])? else { return Ok(None) };
        let mut count = 0;
        for entry in snapshot.entries(&bucket) {
            let entry = entry?;
            let Value::Bytes(value) = &entry.value else {
                return Err(Damage::new(entry.page, "a bucket in a bucket"));
            };
            for number in value.chunks(8) {
                let number = u64::from_le_bytes(number.try_into().unwrap());
                if *shown.get_or_insert(number) != number {
                    return Err(Damage::new(entry.page, format!("{shown:?} and {number}")));
                }
            }
            count += 1;
        }
        if count != if name == b"large" { 40 } else { 4 } {
            return Err(Damage::new(0, format!("{count} keys")));
        }
    }
    Ok(shown)
}

/// Reads while the writer commits as fast as it can.
fn read_beside(writer: &Path, page_size: u64, commits: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.db");
    let mut child = Command::new(writer)
        .arg("churn")
        .arg(&path)
        .args([page_size.to_string(), commits.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (answered, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut exact, mut retried, mut busy) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in lines {
                answered.store(line.unwrap().parse().unwrap(), SeqCst);
            }
            is_over.store(true, SeqCst);
        });
        // The file is there when the first transaction has been answered.
        while answered.load(SeqCst) == 0 && !is_over.load(SeqCst) {
            std::thread::yield_now();
        }
        let live = LiveFile::open(&path).unwrap();
        while !is_over.load(SeqCst) {
            let before = answered.load(SeqCst);
            match live.read(number) {
                Ok(read) => {
                    let shown = read.value.unwrap();
                    assert!(shown >= before, "{shown} after {before} was answered");
                    exact += 1;
                    retried += u64::from(read.tries > 1);
                }
                Err(LiveError::Busy { .. }) => busy += 1,
                Err(e) => panic!("{e}"),
            }
        }
        let last = live.read(number).unwrap().value;
        assert_eq!(last, Some(commits));
    });
    assert!(child.wait().unwrap().success());
    println!("pages of {page_size}: {exact} reads, {retried} not at once, {busy} gave up");
    assert!(exact > 0);
}

#[test]
fn a_read_beside_a_writer_is_whole_and_never_older_than_its_answer() {
    let Some(writers) = writers() else { return };
    for (writer, page_size) in writers.iter().zip([4096, 1024, 16_384]) {
        read_beside(writer, page_size, 4_000);
    }
}

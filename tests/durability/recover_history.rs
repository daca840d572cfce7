//! `recover` against the exact history of a store whose process was killed: whatever is damaged, a saved
//! record is the newest that was answered, or the report names it, or says that the journal or the last
//! checkpoint is damaged. And whenever anything differs from the history, the store does not count as
//! completely recovered.
//!
//! `LMDB_IMAGES_RECOVER_ROUNDS` says how many stores are damaged (default 60), `LMDB_IMAGES_SEED` repeats a
//! run. The last line has the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fastrand::Rng;
use lmdb_images::admin::recover;
use lmdb_images::admin::recover::RecoveryReport;
use lmdb_images::api::images::Image;
use lmdb_images::model::Namespace;
use lmdb_images::store::{Kind, Records, Store, Transaction};
use protobuf::Message;

use crate::support::settings::{seed, setting};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const FILES: [&str; 3] = ["data.mdb", "journal", "store-id"];

fn namespace() -> Namespace {
    Namespace::parse("history").unwrap()
}

fn name(number: usize) -> String {
    format!("registry.example/image-{number:03}:1")
}

/// The record of a version; one with `bytes` of annotations is too large for the journal from 64 KiB on.
fn message(name: &str, version: usize, bytes: usize) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    let target = image.target.mut_or_insert_default();
    target.digest = format!("sha256:{version:064x}");
    target.annotations.insert("filler".into(), "f".repeat(bytes));
    image.updated_at.mut_or_insert_default().seconds = version as i64;
    image.write_to_bytes().unwrap()
}

/// The files of a store at one moment, as a kill leaves them.
type Files = BTreeMap<&'static str, Vec<u8>>;

fn files(root: &Path) -> Files {
    FILES.into_iter().map(|file| (file, std::fs::read(root.join(file)).unwrap())).collect()
}

/// A store with a past, and the records that it was answered to have.
struct History {
    now: Files,
    /// The same store, some changes and a checkpoint before.
    before: Files,
    records: BTreeMap<String, Vec<u8>>,
    names: BTreeSet<String>,
}

impl History {
    fn make(random: &mut Rng, changes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (mut records, mut names) = (BTreeMap::new(), BTreeSet::new());
        let mut before = None;
        for version in 1..=changes {
            let name = name(random.usize(..300));
            names.insert(name.clone());
            let delete = random.u8(..5) == 0;
            let bytes = match random.u8(..100) {
                0 => 80_000,
                1..=9 => 9_000,
                _ => random.usize(20..400),
            };
            let new = (!delete).then(|| message(&name, version, bytes));
            match &new {
                Some(new) => drop(records.insert(name.clone(), new.clone())),
                None => drop(records.remove(&name)),
            }
            let write = move |c: &mut Transaction<'_>| match new {
                Some(new) => c.put(&namespace(), Kind::Image, &name, &new, None),
                None => c.delete(&namespace(), Kind::Image, &name).map(drop),
            };
            store.writer().write_blocking(write).unwrap();
            if version == changes / 2 {
                before = Some(files(dir.path()));
            }
        }
        Self { now: files(dir.path()), before: before.unwrap(), records, names }
    }
}

/// Damages bytes in one of many ways; says how.
fn damage(bytes: &mut Vec<u8>, random: &mut Rng) -> &'static str {
    let at = random.usize(..bytes.len());
    match random.u8(..7) {
        0 => {
            bytes[at] ^= 1 << random.u8(..8);
            "a bit"
        }
        1 => {
            let page = at / PAGE * PAGE;
            bytes[page + random.usize(..64)] ^= 1 << random.u8(..8);
            "a bit in a header"
        }
        2 => {
            for _ in 0..100 {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            "100 bits"
        }
        3 => {
            let sector = at / SECTOR * SECTOR;
            bytes[sector..sector + SECTOR].fill(0);
            "a sector"
        }
        4 => {
            let (to, from) = (at / PAGE * PAGE, random.usize(..bytes.len() / PAGE) * PAGE);
            bytes.copy_within(from..from + PAGE, to);
            "a page over another"
        }
        5 => {
            bytes.truncate(at);
            "a cut"
        }
        _ => {
            bytes.fill(0);
            "zeros"
        }
    }
}

/// Harms the files of `history`; says how.
fn harm(history: &History, other: &History, random: &mut Rng) -> (Files, String) {
    let mut files = history.now.clone();
    let how = match random.u8(..20) {
        0..=9 => format!("data: {}", damage(files.get_mut("data.mdb").unwrap(), random)),
        10..=12 => format!("journal: {}", damage(files.get_mut("journal").unwrap(), random)),
        13..=14 => {
            let data = damage(files.get_mut("data.mdb").unwrap(), random);
            let journal = damage(files.get_mut("journal").unwrap(), random);
            format!("data: {data}, journal: {journal}")
        }
        15 => {
            files.insert("journal", history.before["journal"].clone());
            "an older journal".to_owned()
        }
        16 => {
            files.insert("journal", other.now["journal"].clone());
            "the journal of another store".to_owned()
        }
        17 => {
            files.remove("journal");
            "no journal".to_owned()
        }
        18 => {
            files.remove("data.mdb");
            "no data file".to_owned()
        }
        _ => "nothing".to_owned(),
    };
    (files, how)
}

#[derive(Default)]
struct Figures {
    stores: usize,
    complete: usize,
    records: usize,
    newest: usize,
    older: usize,
    back: usize,
    missing: usize,
}

fn judge(
    history: &History,
    root: &Path,
    report: &RecoveryReport,
    how: &str,
    figures: &mut Figures,
) {
    let store = Store::open(root).unwrap();
    // A journal whose last entries are damaged, or which is an older copy of itself, looks like one whose
    // last entries were never finished.
    let tail_may_be_lost = how.contains("journal: ") || how.contains("an older journal");
    let said =
        !report.found.is_newest_known || how.contains("journal") || how.contains("no data file");
    let named = |name: &str| {
        let quoted = format!("{name:?}");
        [&report.doubtful, &report.lost, &report.unordered]
            .iter()
            .any(|names| names.iter().any(|entry| entry.contains(&quoted)))
    };
    figures.stores += 1;
    figures.complete += usize::from(report.is_complete());
    let mut right = true;
    store
        .read(|snapshot| {
            for name in &history.names {
                let found = snapshot.record(&namespace(), Kind::Image, name).unwrap();
                let wanted = history.records.get(name).map(Vec::as_slice);
                figures.records += usize::from(wanted.is_some());
                figures.newest += usize::from(wanted.is_some() && found == wanted);
                if found == wanted {
                    continue;
                }
                right = false;
                match (found, wanted) {
                    (None, _) => figures.missing += 1,
                    (Some(_), None) => figures.back += 1,
                    (Some(_), Some(_)) => figures.older += 1,
                }
                assert!(
                    found.is_none() || named(name) || said,
                    "{how}: {name} is not the newest, without a word: {report:?}"
                );
            }
            Ok(())
        })
        .unwrap();
    assert!(
        right || !report.is_complete() || tail_may_be_lost,
        "{how}: called complete, but it is not: {report:?}"
    );
    if how == "nothing" {
        assert!(right && report.is_complete(), "{report:?}");
    }
}

#[test]
fn a_recovered_record_is_the_newest_or_named() {
    let rounds = setting("LMDB_IMAGES_RECOVER_ROUNDS").unwrap_or(60);
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let other = History::make(&mut random, 200);
    let (mut history, mut figures) = (History::make(&mut random, 900), Figures::default());
    for round in 0..rounds {
        if round % 20 == 19 {
            let changes = random.usize(500..1_500);
            history = History::make(&mut random, changes);
        }
        let (files, how) = harm(&history, &other, &mut random);
        let (root, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (file, bytes) in &files {
            std::fs::write(root.path().join(file), bytes).unwrap();
        }
        let in_place = random.bool();
        let target = if in_place { root.path() } else { to.path() };
        let report = recover::run(root.path(), (!in_place).then_some(target))
            .unwrap_or_else(|e| panic!("round {round}, {how}: {e}"));
        judge(&history, target, &report, &format!("round {round}: {how}"), &mut figures);
    }
    let Figures { stores, complete, records, newest, older, back, missing } = figures;
    println!(
        "{stores} stores, {complete} recovered completely; of {records} records {newest} are the newest; \
         {older} older, {back} deleted before, {missing} missing: all of them named, or in a store whose \
         journal or last checkpoint was reported as damaged"
    );
}

/// A store whose process was killed after `then`, with the version 1 of `x` in LMDB's file.
fn killed(then: impl FnOnce(&Store)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        put(&store, 1, 10);
    }
    let store = Store::open(dir.path()).unwrap();
    then(&store);
    let killed = tempfile::tempdir().unwrap();
    for (file, bytes) in files(dir.path()) {
        std::fs::write(killed.path().join(file), bytes).unwrap();
    }
    killed
}

fn put(store: &Store, version: usize, bytes: usize) {
    let record = message("x", version, bytes);
    let write = move |c: &mut Transaction<'_>| c.put(&namespace(), Kind::Image, "x", &record, None);
    store.writer().write_blocking(write).unwrap();
}

fn recovered(root: &Path) -> (Option<Vec<u8>>, RecoveryReport) {
    let to = tempfile::tempdir().unwrap();
    let report = recover::run(root, Some(to.path())).unwrap();
    let store = Store::open(to.path()).unwrap();
    let found = store.read(|s| Ok(s.record(&namespace(), Kind::Image, "x")?.map(<[u8]>::to_vec)));
    (found.unwrap(), report)
}

#[test]
fn an_entry_before_the_last_checkpoint_does_not_replace_a_newer_record() {
    let root = killed(|store| {
        put(store, 2, 10);
        // Too large for the journal: it goes to LMDB's file at once, with all before it.
        put(store, 3, 80_000);
    });
    let (found, report) = recovered(root.path());
    assert_eq!(found, Some(message("x", 3, 80_000)), "{report:?}");
    assert!(report.is_complete() && report.from_journal == 0, "{report:?}");
}

#[test]
fn an_image_that_was_deleted_does_not_return() {
    let root = killed(|store| {
        put(store, 2, 10);
        let delete = |c: &mut Transaction<'_>| {
            let large = message("y", 1, 80_000);
            c.put(&namespace(), Kind::Image, "y", &large, None)?;
            c.delete(&namespace(), Kind::Image, "x").map(drop)
        };
        store.writer().write_blocking(delete).unwrap();
    });
    let (found, report) = recovered(root.path());
    assert!(found.is_none() && report.is_complete(), "{report:?}");
}

#[test]
fn a_change_that_only_the_journal_has_is_saved() {
    let root = killed(|store| put(store, 2, 10));
    let (found, report) = recovered(root.path());
    assert_eq!(found, Some(message("x", 2, 10)), "{report:?}");
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn the_journal_of_another_store_is_set_aside_and_named() {
    let root = killed(|_| {});
    let other = killed(|store| put(store, 2, 10));
    std::fs::copy(other.path().join("journal"), root.path().join("journal")).unwrap();
    let (found, report) = recovered(root.path());
    assert_eq!(found, Some(message("x", 1, 10)), "{report:?}");
    assert!(!report.is_complete() && report.set_aside == 1, "{report:?}");
    assert!(report.unordered[0].contains("image \"x\" in namespace history"), "{report:?}");
}

//! Corruption. The test damages the data file of a store that no process has open at random, thousands of times. Each
//! time, a child process opens the store and reads everything. The child may refuse, with a sentence that names
//! `recover`. Or it serves, and each record must be the written one, or reported as damaged. The child must never end by
//! a signal, and never return anything else. Afterwards `recover` saves the readable records.
//!
//! `LMDB_IMAGES_ROT_ROUNDS` says how often (default 60), `LMDB_IMAGES_SEED` repeats a run. The last
//! lines have the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use fastrand::Rng;
use lmdb_images::admin::recover;
use lmdb_images::api::images::Image;
use lmdb_images::model::{Error, Namespace};
use lmdb_images::store::{Kind, Records, Store};
use protobuf::Message;

use crate::support;
use crate::support::settings::{seed, setting};

/// In the child: the root to open.
const CHILD: &str = "LMDB_IMAGES_ROT_CHILD";
/// How it ends when it refused the file.
const REFUSED: i32 = 3;
const PAGE: usize = 4096;

fn namespace() -> Namespace {
    Namespace::parse("rot").unwrap()
}

fn message(name: &str, version: usize) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    image.labels.insert("version".into(), version.to_string());
    image.labels.insert("team".into(), format!("team-{}", version % 7));
    let target = image.target.mut_or_insert_default();
    target.digest = format!("sha256:{version:064x}");
    // One in ten has a value of several pages.
    let length = if version.is_multiple_of(10) { 9000 } else { 20 + version * 13 % 400 };
    target.annotations.insert("filler".into(), "f".repeat(length));
    image.updated_at.mut_or_insert_default().seconds = version as i64;
    image.write_to_bytes().unwrap()
}

/// What was written last under each name, and everything that ever was.
struct Written {
    last: BTreeMap<String, Vec<u8>>,
    before: BTreeMap<String, Vec<u8>>,
    ever: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

/// A store with a past: free pages, long values, long names.
fn make(root: &Path) -> Written {
    let store = Store::open(root).unwrap();
    let mut written =
        Written { last: BTreeMap::new(), before: BTreeMap::new(), ever: BTreeMap::new() };
    let mut random = Rng::with_seed(1);
    let mut version = 0;
    store.writer().write_blocking(|c| c.put_namespace(&namespace(), b"\x0a\x03rot")).unwrap();
    for _ in 0..40 {
        let mut changes = Vec::new();
        for _ in 0..30 {
            version += 1;
            let number = random.usize(..700);
            let tail = if number.is_multiple_of(50) { "/long".repeat(100) } else { String::new() };
            let name = format!("registry.example/some/image-{number:03}:1{tail}");
            let gone = random.usize(..5) == 0;
            changes.push((name.clone(), (!gone).then(|| message(&name, version))));
        }
        written.before = written.last.clone();
        for (name, new) in &changes {
            match new {
                Some(new) => {
                    written.last.insert(name.clone(), new.clone());
                    written.ever.entry(name.clone()).or_default().insert(new.clone());
                }
                None => drop(written.last.remove(name)),
            }
        }
        store
            .writer()
            .write_blocking(move |change| {
                changes.iter().try_for_each(|(name, new)| match new {
                    Some(new) => change.put(&namespace(), Kind::Image, name, new, None),
                    None => change.delete(&namespace(), Kind::Image, name).map(drop),
                })
            })
            .unwrap();
    }
    written
}

/// Damages the file in one of many ways; says how.
fn damage(file: &mut Vec<u8>, random: &mut Rng) -> &'static str {
    let at = random.usize(..file.len());
    let page = at / PAGE * PAGE;
    match random.usize(..9) {
        0 | 1 => {
            file[at] ^= 1 << random.usize(..8);
            "bit"
        }
        2 | 3 => {
            file[page + random.usize(..64)] ^= 1 << random.usize(..8);
            "bit in a header"
        }
        4 => {
            file[at] = file[at].wrapping_add(1 + random.usize(..255) as u8);
            "byte"
        }
        5 => {
            for _ in 0..100 {
                let at = random.usize(..file.len());
                file[at] ^= 1 << random.usize(..8);
            }
            "100 bits"
        }
        6 => {
            let sector = at / 512 * 512;
            let filling = if random.usize(..2) == 0 { 0 } else { random.usize(..256) as u8 };
            file[sector..sector + 512].fill(filling);
            "sector"
        }
        7 => {
            let other = random.usize(..file.len() / PAGE) * PAGE;
            let copy = file[other..other + PAGE].to_vec();
            file[page..page + PAGE].copy_from_slice(&copy);
            "page over another"
        }
        _ => {
            file.truncate(at);
            "cut"
        }
    }
}

/// The child: opens the store, reads all of it, writes, reads again, and prints the results.
#[test]
#[ignore = "run by the other test, as another process"]
fn open_and_read() {
    let Ok(root) = std::env::var(CHILD) else { return };
    let store = match Store::open(Path::new(&root)) {
        Ok(store) => store,
        Err(Error::DataLoss(m)) if m.contains("lmdb-images recover --root") => {
            std::process::exit(REFUSED)
        }
        Err(e) => panic!("refused without saying what to do: {e:?}"),
    };
    read(&store, &root);
    // What LMDB does with these pages when it changes them must not end it either.
    for number in (0..700).step_by(35) {
        let name = format!("registry.example/some/image-{number:03}:1");
        let _ = store.writer().write_blocking(move |change| {
            change.delete(&namespace(), Kind::Image, &name)?;
            change.put(&namespace(), Kind::Image, &format!("{name}-new"), &[7; 3000], None)
        });
    }
    store.read(|s| Ok(s.scan(&namespace(), Kind::Image)?.count())).unwrap();
}

fn read(store: &Store, root: &str) {
    let mut found = String::new();
    let names = std::fs::read_to_string(Path::new(root).join("names")).unwrap();
    store
        .read(|snapshot| {
            for name in names.lines() {
                let got = match snapshot.record(&namespace(), Kind::Image, name) {
                    Ok(Some(message)) => message.iter().map(|b| format!("{b:02x}")).collect(),
                    Ok(None) => "missing".to_owned(),
                    Err(Error::DataLoss(m)) if m.contains(&name[..200.min(name.len())]) => {
                        "damaged".to_owned()
                    }
                    Err(e) => panic!("{name}: {e:?}"),
                };
                found += &format!("{got}\n");
            }
            let (mut whole, mut damaged) = (0, 0);
            for entry in snapshot.scan(&namespace(), Kind::Image)? {
                match entry?.message() {
                    Ok(_) => whole += 1,
                    Err(_) => damaged += 1,
                }
            }
            found += &format!("listed {whole} {damaged}\n");
            Ok(())
        })
        .unwrap();
    std::fs::write(Path::new(root).join("found"), found).unwrap();
}

#[derive(Debug, Default, Clone)]
struct Figures {
    rounds: usize,
    refused: usize,
    served: usize,
    one_back: usize,
    said_damaged: usize,
    under_another_name: usize,
    records: usize,
    saved: usize,
    saved_old: usize,
    lost: usize,
    all_saved: usize,
}

#[test]
fn a_damaged_file_is_refused_or_serves_only_what_was_written() {
    let rounds = setting("LMDB_IMAGES_ROT_ROUNDS").unwrap_or(60);
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let origin = tempfile::tempdir().unwrap();
    let written = make(origin.path());
    let good = std::fs::read(origin.path().join("data.mdb")).unwrap();
    let names: Vec<_> = written.ever.keys().cloned().collect();
    let mut kinds: BTreeMap<&str, Figures> = BTreeMap::new();
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = good.clone();
        let how = damage(&mut bad, &mut random);
        let figures = kinds.entry(how).or_default();
        let file = dir.path().join("data.mdb");
        std::fs::write(&file, &bad).unwrap();
        std::fs::write(dir.path().join("names"), names.join("\n")).unwrap();
        let child =
            support::rerun("corruption::open_and_read").env(CHILD, dir.path()).output().unwrap();
        let context = || {
            format!(
                "round {round}, {how}, LMDB_IMAGES_SEED={seed}: {}{}",
                String::from_utf8_lossy(&child.stdout),
                String::from_utf8_lossy(&child.stderr)
            )
        };
        assert_eq!(child.status.signal(), None, "{}", context());
        figures.rounds += 1;
        match child.status.code().unwrap() {
            REFUSED => {
                figures.refused += 1;
                assert_eq!(std::fs::read(&file).unwrap(), bad, "{}", context());
            }
            0 => {
                figures.served += 1;
                let found = std::fs::read_to_string(dir.path().join("found")).unwrap();
                judge(&found, &names, &written, figures, &context);
                // The child wrote: recover starts from the damaged file again.
                std::fs::write(&file, &bad).unwrap();
                std::fs::remove_file(dir.path().join("journal")).unwrap();
            }
            other => panic!("it ended with {other}: {}", context()),
        }
        let to = tempfile::tempdir().unwrap();
        match recover::run(dir.path(), Some(to.path())) {
            Ok(report) => saved(&report, to.path(), &written, figures, &context),
            Err(e) => panic!("{e}: {}", context()),
        }
    }
    for (how, figures) in &kinds {
        println!("{how}: {figures}");
    }
    println!("all: {}", kinds.values().fold(Figures::default(), |sum, kind| sum.and(kind)));
    println!("ended by a signal: 0; wrong records given out: 0");
}

impl Figures {
    fn and(self, other: &Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            refused: self.refused + other.refused,
            served: self.served + other.served,
            one_back: self.one_back + other.one_back,
            said_damaged: self.said_damaged + other.said_damaged,
            under_another_name: self.under_another_name + other.under_another_name,
            records: self.records + other.records,
            saved: self.saved + other.saved,
            saved_old: self.saved_old + other.saved_old,
            lost: self.lost + other.lost,
            all_saved: self.all_saved + other.all_saved,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "damaged {} times, refused {}, served {} ({} records said to be damaged, {} missing as their \
             key was damaged, {} times one change back); recovered {} of {} records, {} in an older \
             version, {} lost; everything in {} of {}",
            self.rounds,
            self.refused,
            self.served,
            self.said_damaged,
            self.under_another_name,
            self.one_back,
            self.saved,
            self.records,
            self.saved_old,
            self.lost,
            self.all_saved,
            self.rounds
        )
    }
}

fn judge(
    found: &str,
    names: &[String],
    written: &Written,
    figures: &mut Figures,
    context: &dyn Fn() -> String,
) {
    let mut lines = found.lines();
    let got: Vec<_> = lines.by_ref().take(names.len()).collect();
    let listed: Vec<usize> =
        lines.next().unwrap().split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    let hex = |m: &Vec<u8>| m.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let has_state = |state: &BTreeMap<String, Vec<u8>>| {
        names.iter().zip(&got).all(|(name, got)| match state.get(name) {
            Some(message) => **got == hex(message),
            None => *got == "missing",
        })
    };
    if has_state(&written.last) {
        return;
    }
    if has_state(&written.before) {
        figures.one_back += 1;
        return;
    }
    let mut missing = 0;
    for (name, got) in names.iter().zip(&got) {
        match (written.last.get(name), *got) {
            (_, "damaged") => figures.said_damaged += 1,
            (None, "missing") => {}
            (Some(_), "missing") => missing += 1,
            (Some(message), got) => assert_eq!(got, hex(message), "{name}: {}", context()),
            (None, got) => panic!("{name} was deleted, but is {got}: {}", context()),
        }
    }
    // Where a key is damaged its record is seen, as damaged, under another name.
    assert!(missing <= listed[1], "{missing} missing, {listed:?} listed: {}", context());
    figures.under_another_name += missing;
}

fn saved(
    report: &recover::RecoveryReport,
    to: &Path,
    written: &Written,
    figures: &mut Figures,
    context: &dyn Fn() -> String,
) {
    let store = Store::open(to).unwrap();
    let recover::SavedCounts { previous, unreferenced, .. } = report.saved;
    let mut all = true;
    store
        .read(|snapshot| {
            for (name, message) in &written.last {
                figures.records += 1;
                match snapshot.record(&namespace(), Kind::Image, name).unwrap() {
                    Some(found) if found == message => figures.saved += 1,
                    Some(found) => {
                        assert!(written.ever[name].contains(found), "{name}: {}", context());
                        assert!(
                            previous + unreferenced > 0
                                || report.found.is_whole
                                || !report.found.is_newest_known,
                            "an old {name} without a word: {report:?} {}",
                            context()
                        );
                        figures.saved_old += 1;
                        all = false;
                    }
                    None => {
                        assert!(
                            !report.is_complete(),
                            "{name} is lost without a word: {report:?} {}",
                            context()
                        );
                        figures.lost += 1;
                        all = false;
                    }
                }
            }
            for entry in snapshot.scan(&namespace(), Kind::Image)? {
                let image = Image::parse_from_bytes(entry?.message()?).unwrap();
                if !written.last.contains_key(&image.name) {
                    assert!(written.ever.contains_key(&image.name), "{}", context());
                    assert!(
                        previous + unreferenced > 0
                            || report.found.is_whole
                            || !report.found.is_newest_known,
                        "{} is back without a word: {report:?} {}",
                        image.name,
                        context()
                    );
                }
            }
            Ok(())
        })
        .unwrap();
    figures.all_saved += usize::from(all);
}

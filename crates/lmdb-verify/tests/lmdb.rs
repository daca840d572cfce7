//! The verifier against files that LMDB itself wrote: no false alarm, and no damage overlooked that
//! could harm.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use fastrand::Rng;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, WithoutTls};
use lmdb_verify::pages::{PageSet, ReadAt};
use lmdb_verify::{Damage, Metas, State};

fn environment(root: &Path) -> Env<WithoutTls> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 32).max_dbs(8);
    // SAFETY: the folder is this test's alone.
    unsafe { options.open(root) }.unwrap()
}

fn verified(file: &Path) -> State {
    State::read_live(&File::open(file).unwrap()).unwrap()
}

/// Changes at random, of all kinds of values, while readers come and go; after each commit the
/// verifier must find nothing, and count what LMDB counts.
#[test]
fn every_file_that_lmdb_writes_is_accepted() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let rounds = setting("LMDB_VERIFY_COMMITS").unwrap_or(400);
    let seed = setting("LMDB_VERIFY_SEED").unwrap_or(7);
    let mut random = Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.mdb");
    let env = environment(dir.path());
    verified(&file);
    let txn = env.write_txn().unwrap();
    let made = env.create_databases_and_commit(txn, |opener, txn| {
        let plain: [Database<Bytes, Bytes>; 2] =
            [opener.create_database(txn, Some("a"))?, opener.create_database(txn, Some("b"))?];
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(plain))
    });
    let CommitOrAbort::Commit(plain) = made.unwrap() else { unreachable!() };
    let mut held = Vec::new();
    for round in 0..rounds {
        let mut txn = env.write_txn().unwrap();
        let shrink = round / 40 % 3 == 2;
        for _ in 0..random.u64(..60) {
            let key =
                format!("{:0width$}", random.u64(..3000), width = 1 + random.u64(..400) as usize);
            let key = &key.as_bytes()[..key.len().min(511)];
            let db = &plain[random.u64(..2) as usize];
            let length = match random.u64(..20) {
                0 => random.u64(..40_000),
                1..4 => random.u64(..3000),
                _ => random.u64(..400),
            };
            let value = vec![round as u8; length as usize];
            match random.u64(..10) {
                0..6 if !shrink => db.put(&mut txn, key, &value).unwrap(),
                _ => {
                    let found = db.get_greater_than_or_equal_to(&txn, key).unwrap();
                    if let Some(k) = found.map(|(k, _)| k.to_vec()) {
                        db.delete(&mut txn, &k).unwrap();
                    }
                }
            }
        }
        if random.u64(..150) == 0 {
            plain[0].clear(&mut txn).unwrap();
        }
        if random.u64(..10) == 0 {
            txn.abort();
        } else {
            txn.commit().unwrap();
        }
        if random.u64(..8) == 0 {
            held.push(env.read_txn().unwrap());
        }
        if random.u64(..20) == 0 {
            held.clear();
        }
        let found = verified(&file);
        assert_eq!(found.leaked, 0, "round {round}");
        let txn = env.read_txn().unwrap();
        for db in &plain {
            let entries = db.len(&txn).unwrap();
            assert!(found.databases.iter().any(|(_, d)| d.entries == entries), "round {round}");
        }
        // The state before is whole as well: that is what a sentence may promise.
        let opened = File::open(&file).unwrap();
        let metas = Metas::read(&opened).unwrap();
        let before = metas.other(metas.live().unwrap()).unwrap();
        State::read(&opened, before).unwrap();
    }
    for compaction in [heed::CompactionOption::Enabled, heed::CompactionOption::Disabled] {
        let mut copy = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        env.copy_to_file(copy.as_file_mut(), compaction).unwrap();
        verified(copy.path());
    }
}

/// A file with two databases, long values and free pages.
fn sample() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let env = environment(dir.path());
    let txn = env.write_txn().unwrap();
    let made = env.create_databases_and_commit(txn, |opener, txn| {
        let database: Database<Bytes, Bytes> = opener.create_database(txn, Some("a"))?;
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(database))
    });
    let CommitOrAbort::Commit(database) = made.unwrap() else { unreachable!() };
    for round in 0..3_u8 {
        let mut txn = env.write_txn().unwrap();
        for key in 0..150_u8 {
            let length = if key % 50 == 0 { 9_000 } else { 40 };
            database.put(&mut txn, &[b'k', key], &vec![round; length]).unwrap();
        }
        txn.commit().unwrap();
    }
    env.prepare_for_closing().wait();
    std::fs::read(dir.path().join("data.mdb")).unwrap()
}

#[test]
fn damage_is_named() {
    let good = sample();
    let page_count = good.len() / 4096;
    State::read_live(good.as_slice()).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        State::read_live(bad.as_slice()).unwrap_err().to_string()
    };
    let both = |at: usize, value: u64| {
        damage(&|bad| {
            for meta in [0, 4096] {
                bad[meta + 16 + at..][..8].copy_from_slice(&value.to_ne_bytes());
            }
        })
    };
    for (damage, expected) in [
        (damage(&|bad| *bad = b"not a database".to_vec()), "meta page 0 is missing"),
        (damage(&|bad| bad.truncate(4096)), "meta page 1 is missing"),
        (damage(&|bad| bad.truncate(4096 * (page_count - 1))), "page"),
        (damage(&|bad| bad[16] ^= 1), "meta page 0 is not one of LMDB"),
        (damage(&|bad| bad[20] = 9), "meta page 0 has LMDB data version 9"),
        (both(112, 1 << 40), "the tree of databases begins behind the last page"),
        (both(120, 1 << 60), "its last page would be number 1152921504606846976"),
        (both(128, 9), "meta page 0 has transaction 9"),
    ] {
        assert!(damage.contains(expected), "{damage:?} has no {expected:?}");
    }
}

/// The number of a page, its flags and bounds.
#[test]
fn a_changed_byte_in_the_header_of_a_page_in_use_is_damage() {
    let good = sample();
    let state = State::read_live(good.as_slice()).unwrap();
    assert!(state.used > 4 && state.free > 0, "{state:?}");
    let free =
        State::free_pages(good.as_slice(), Metas::read(good.as_slice()).unwrap().live().unwrap())
            .unwrap();
    let leaves = (2..good.len() / 4096)
        .filter(|page| !free.contains(*page as u64))
        // Not the inside of a long value.
        .filter(|page| good[page * 4096..][..8] == (*page as u64).to_ne_bytes());
    let mut changed = 0;
    for page in leaves {
        for byte in (0..8).chain(10..16) {
            let mut bad = good.clone();
            bad[page * 4096 + byte] ^= 0x40;
            let verdict: Result<State, Damage> = State::read_live(bad.as_slice());
            assert!(verdict.is_err(), "byte {byte} of page {page}");
            changed += 1;
        }
    }
    assert!(changed > 40, "{changed}");
}

#[test]
fn sets_are_put_together_unless_they_share_a_number() {
    let set = |numbers: &[u64]| {
        let mut set = PageSet::with_bound(200);
        assert!(numbers.iter().all(|number| set.add(*number)));
        set
    };
    let mut all = set(&[2, 63, 64]);
    assert_eq!(all.merge(&set(&[3, 65, 199])), Ok(()));
    assert_eq!(all.count, 6);
    assert!([2, 3, 63, 64, 65, 199].iter().all(|number| all.contains(*number)));
    assert_eq!(all.merge(&set(&[4, 199])), Err(199));
}

/// A data file into which a writer commits twice whenever its second meta page is read, some times.
struct Committing {
    bytes: Mutex<Vec<u8>>,
    times: AtomicUsize,
}

impl ReadAt for Committing {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let commits = self.times.fetch_update(SeqCst, SeqCst, |left| {
            if at == 4096 { left.checked_sub(1) } else { None }
        });
        for transaction in commits.iter().flat_map(|_| [144, 4096 + 144]) {
            let number = &mut bytes[transaction..transaction + 8];
            let next = u64::from_ne_bytes(number.try_into().unwrap()) + 2;
            number.copy_from_slice(&next.to_ne_bytes());
        }
        bytes.as_slice().read_at(buffer, at)
    }
}

#[test]
fn commits_between_reads_of_the_meta_pages_are_not_taken_for_damage() {
    let bytes = sample();
    let last = Metas::read(bytes.as_slice()).unwrap().live().unwrap().transaction;
    for times in [0, 1, 2, 10] {
        let file = Committing { bytes: Mutex::new(bytes.clone()), times: AtomicUsize::new(times) };
        let metas = Metas::read(&file).unwrap();
        assert!(metas.live().unwrap().transaction > last || times == 0, "{metas:?}");
    }
}

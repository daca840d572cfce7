//! The verifier against files that LMDB itself wrote: no false alarm, and no damage overlooked that
//! could harm.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, WithoutTls};

use crate::model::Error;
use crate::store::Store;
use crate::store::format::pages::{PageSet, ReadAt};
use crate::store::format::state::{Metas, State};
use crate::store::recovery::verify::*;

/// SplitMix64: enough for choices that can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn environment(root: &Path) -> Env<WithoutTls> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 32).max_dbs(8);
    // SAFETY: the folder is this test's alone.
    unsafe { options.open(root) }.unwrap()
}

fn verified(file: &Path) -> State {
    state(&File::open(file).unwrap()).unwrap()
}

/// Changes at random, of all kinds of values, while readers come and go; after each commit the
/// verifier must find nothing, and count what LMDB counts.
#[test]
fn whatever_lmdb_writes_is_found_whole() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let rounds = setting("LMDB_IMAGES_CHURN_ROUNDS").unwrap_or(400);
    let seed = setting("LMDB_IMAGES_SEED").unwrap_or(7);
    let mut random = Random(seed);
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
        for _ in 0..random.below(60) {
            let key =
                format!("{:0width$}", random.below(3000), width = 1 + random.below(400) as usize);
            let key = &key.as_bytes()[..key.len().min(511)];
            let db = &plain[random.below(2) as usize];
            let length = match random.below(20) {
                0 => random.below(40_000),
                1..4 => random.below(3000),
                _ => random.below(400),
            };
            let value = vec![round as u8; length as usize];
            match random.below(10) {
                0..6 if !shrink => db.put(&mut txn, key, &value).unwrap(),
                _ => {
                    let found = db.get_greater_than_or_equal_to(&txn, key).unwrap();
                    if let Some(k) = found.map(|(k, _)| k.to_vec()) {
                        db.delete(&mut txn, &k).unwrap();
                    }
                }
            }
        }
        if random.below(150) == 0 {
            plain[0].clear(&mut txn).unwrap();
        }
        if random.below(10) == 0 {
            txn.abort();
        } else {
            txn.commit().unwrap();
        }
        if random.below(8) == 0 {
            held.push(env.read_txn().unwrap());
        }
        if random.below(20) == 0 {
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

fn store() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let file = dir.path().join("data.mdb");
    (dir, file)
}

#[test]
fn a_foreign_or_cut_file_is_refused_unchanged() {
    let (dir, file) = store();
    check_before_mmap(&file).unwrap();
    let good = std::fs::read(&file).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let both = |at: usize, value: u64| {
        with(&|bad| {
            for meta in [0, 4096] {
                bad[meta + 16 + at..][..8].copy_from_slice(&value.to_ne_bytes());
            }
        })
    };
    for bad in [
        b"not a database".to_vec(),
        good[..4096].to_vec(),
        good[..good.len() - 4096].to_vec(),
        with(&|bad| bad[16] ^= 1),
        with(&|bad| bad[20] = 9),
        both(112, 1 << 40),
        both(120, 1 << 60),
        both(128, 9),
        both(104, 77),
    ] {
        std::fs::write(&file, &bad).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::DataLoss(m) if m.contains("lmdb-images recover --root")),
            "{error}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), bad);
    }
}

#[test]
fn sets_are_put_together_unless_they_share_a_number() {
    let set = |numbers: &[u64]| {
        let mut set = PageSet::below(200);
        assert!(numbers.iter().all(|number| set.add(*number)));
        set
    };
    let mut all = set(&[2, 63, 64]);
    assert_eq!(all.merge(&set(&[3, 65, 199])), Ok(()));
    assert_eq!(all.count, 6);
    assert!([2, 3, 63, 64, 65, 199].iter().all(|number| all.has(*number)));
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
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let bytes = std::fs::read(dir.path().join("data.mdb")).unwrap();
    let last = Metas::read(bytes.as_slice()).unwrap().live().unwrap().transaction;
    for times in [0, 1, 2, 10] {
        let file = Committing { bytes: Mutex::new(bytes.clone()), times: AtomicUsize::new(times) };
        let metas = Metas::read(&file).unwrap();
        assert!(metas.live().unwrap().transaction > last || times == 0, "{metas:?}");
    }
}

//! Pages of the log, and readers that wait for its end.

use super::*;
use crate::store::{Cause, Origin};

#[test]
fn changes_that_became_visible_together_are_read_together() {
    let (_dir, store) = store();
    put(&store, 0, 10);
    let batch = |change: &mut Transaction<'_>| {
        change.set_cause(Cause::own(Origin::ORIGIN_BATCH));
        work(change, &[Op::Put(0, 1, 900), Op::Put(1, 1, 900), Op::Put(2, 1, 900)])
    };
    store.writer().write_blocking(batch).unwrap();
    put(&store, 0, 10);
    for checkpointed in [false, true] {
        let seqs = |from, most| -> Vec<u64> {
            store.read_log(from, most).unwrap().entries.iter().map(|entry| entry.seq).collect()
        };
        assert_eq!(seqs(1, 0), [1], "{checkpointed}");
        assert_eq!(seqs(2, 0), [2, 3, 4]);
        assert_eq!(seqs(1, 1200), [1, 2, 3, 4]);
        assert_eq!(seqs(1, usize::MAX), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(6, usize::MAX), [0; 0]);
        store.checkpoint().unwrap();
    }
}

#[test]
fn a_woken_reader_can_read_the_published_end() {
    let (_dir, store) = store();
    let mut watched = store.watch_log();
    let reader = std::thread::spawn({
        let store = store.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut next = 1;
            while next <= 300 {
                runtime.block_on(watched.changed()).unwrap();
                let shown = watched.borrow_and_update().unwrap();
                let page = store.read_log(next, usize::MAX).unwrap();
                assert!(page.head.unwrap().last >= shown.last);
                assert!(page.entries.last().map_or(next - 1, |entry| entry.seq) >= shown.last);
                next += page.entries.len() as u64;
            }
        }
    });
    for number in 0..300 {
        put(&store, number, 100);
    }
    reader.join().unwrap();
}

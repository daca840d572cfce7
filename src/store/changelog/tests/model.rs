//! Random jobs, some refused, over checkpoints, restarts and crashes: the log over the first state is the list.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protobuf::Message;

use super::*;
use crate::api::images::Image;
use crate::model::Error;
use crate::store::{Cause, Origin, Retention};

/// Images by namespace and name, as their records.
type Images = BTreeMap<(String, String), Vec<u8>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Well,
    Refused,
    Panic,
}

#[derive(Debug, Clone)]
enum Step {
    Job(Vec<Op>, End, Origin),
    Checkpoint,
    Restart,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6usize, any::<u32>(), 0..2000usize).prop_map(|(at, c, b)| Op::Put(at, c, b)),
        1 => (0..6usize, any::<u32>()).prop_map(|(at, c)| Op::Put(at, c, 20_000)),
        2 => (0..6usize).prop_map(Op::Delete),
        1 => (0..6usize).prop_map(Op::SetAside),
        1 => (0..6usize).prop_map(Op::Lease),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![5 => Just(End::Well), 1 => Just(End::Refused), 1 => Just(End::Panic)];
    let origin = prop::sample::select(vec![Origin::ORIGIN_CLIENT, Origin::ORIGIN_BATCH]);
    prop_oneof![
        10 => (prop::collection::vec(op(), 0..5), end, origin).prop_map(|(o, e, g)| Step::Job(o, e, g)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

fn list(snapshot: &Snapshot<'_>) -> Result<Images> {
    let mut images = Images::new();
    for number in 0..2 {
        for entry in snapshot.scan(&namespace(number), Kind::Image)? {
            let message = entry?.message()?.to_vec();
            let name = Image::parse_from_bytes(&message).unwrap().name;
            images.insert((namespace(number).to_string(), name), message);
        }
    }
    Ok(images)
}

fn apply(images: &mut Images, change: &Change) {
    let key = (change.namespace.clone(), change.name.clone());
    let before = images.get(&key).cloned();
    assert_eq!(
        change.before.as_ref().map(|state| record(&change.name, state)),
        before,
        "what {change} replaces"
    );
    match change.after.as_ref() {
        Some(after) => drop(images.insert(key, record(&change.name, after))),
        None => drop(images.remove(&key)),
    }
}

/// The changes that a job makes, and the images then.
fn expected(images: &mut Images, ops: &[Op]) -> u64 {
    let mut count = 0;
    for op in ops {
        let key = |at: usize| (namespace(at / 3).to_string(), name(at));
        match op {
            Op::Put(at, content, bytes) => {
                images.insert(key(*at), image(&name(*at), *content, *bytes));
                count += 1;
            }
            Op::Delete(at) | Op::SetAside(at) => {
                count += u64::from(images.remove(&key(*at)).is_some());
            }
            Op::Lease(_) => {}
        }
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_replay_of_the_log_gives_the_list_after_any_fault(
        steps in prop::collection::vec(step(), 0..40),
        keep in prop::sample::select(vec![u64::MAX, 40 << 10]),
    ) {
        let keep = Some(Retention { bytes: keep, age: None });
        let mut dir = tempfile::tempdir().unwrap();
        let mut store = Store::open_and_keep(dir.path(), keep).unwrap();
        let epoch = store.log_head().unwrap().epoch;
        // After each entry.
        let mut states = vec![Images::new()];
        for step in steps {
            match step {
                Step::Job(ops, end, origin) => {
                    let asked = ops.clone();
                    let job = move |change: &mut Transaction<'_>| {
                        change.set_cause(Cause::own(origin));
                        work(change, &asked)?;
                        match end {
                            End::Well => Ok(()),
                            End::Refused => Err(Error::not_found("on purpose")),
                            End::Panic => panic!("on purpose"),
                        }
                    };
                    let made = store.writer().write_blocking(job);
                    prop_assert_eq!(made.is_ok(), end == End::Well);
                    if made.is_ok() {
                        for op in &ops {
                            let mut images = states.last().unwrap().clone();
                            if expected(&mut images, std::slice::from_ref(op)) > 0 {
                                states.push(images);
                            }
                        }
                    }
                }
                Step::Checkpoint => store.checkpoint().unwrap(),
                Step::Restart => {
                    drop(store);
                    store = Store::open_and_keep(dir.path(), keep).unwrap();
                }
                Step::Crash => {
                    let next = crashed(dir.path());
                    drop(std::mem::replace(&mut store, Store::open_and_keep(next.path(), keep).unwrap()));
                    dir = next;
                }
            }
            let shown = store.log_head().unwrap();
            prop_assert_eq!((shown.epoch, shown.last + 1), (epoch, states.len() as u64));
            store.read(|snapshot| {
                let head = snapshot.log_head()?.unwrap();
                assert_eq!((head, head.first <= head.last.max(1)), (shown, true));
                let mut images = states[head.first as usize - 1].clone();
                for change in changes(snapshot, &head)? {
                    apply(&mut images, &change);
                }
                assert_eq!(images, list(snapshot)?);
                Ok(())
            }).unwrap();
        }
    }
}

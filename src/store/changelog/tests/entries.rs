//! What an entry says of a change.

use super::*;
use crate::api::catalog::Kind as ChangeKind;
use crate::store::{Actor, Cause, Origin};

#[test]
fn an_entry_has_the_actor_the_change_and_the_reason() {
    let (_dir, store) = store();
    let job = |cause: Cause, ops: Vec<Op>| {
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            work(change, &ops)
        };
        store.writer().write_blocking(work).unwrap();
    };
    job(Cause::client(Actor::new(Some(1000), 42, "ctr")), vec![Op::Put(0, 1, 3)]);
    job(Cause { undoes: 1, ..Cause::own(Origin::ORIGIN_UNDO) }, vec![Op::Delete(0)]);
    job(
        Cause::own(Origin::ORIGIN_BATCH),
        vec![Op::Put(0, 1, 3), Op::Put(0, 2, 3), Op::Put(1, 1, 3)],
    );
    job(Cause::own(Origin::ORIGIN_RESYNC), vec![Op::SetAside(0), Op::SetAside(0), Op::Lease(0)]);
    let all = logged(&store);
    let kinds: Vec<_> = all.iter().map(|change| change.kind.unwrap()).collect();
    let (created, updated, deleted) =
        (ChangeKind::KIND_CREATED, ChangeKind::KIND_UPDATED, ChangeKind::KIND_DELETED);
    assert_eq!(kinds, [created, deleted, created, updated, created, deleted]);
    let commits: Vec<_> = all.iter().map(|change| change.commit_last).collect();
    assert_eq!(commits, [1, 2, 5, 5, 5, 6]);
    let [first, undo, ..] = all.as_slice() else { panic!() };
    let actor = first.actor.as_ref().unwrap();
    assert_eq!((actor.uid, actor.pid, actor.comm.as_str()), (Some(1000), 42, "ctr"));
    assert_eq!(
        (first.origin.unwrap(), first.undoes, first.truncated),
        (Origin::ORIGIN_CLIENT, 0, false)
    );
    assert_eq!((first.namespace.as_str(), first.name.as_str()), ("n", "a"));
    assert!(first.before.is_none() && undo.after.is_none());
    assert_eq!(record("a", &undo.before), image("a", 1, 3));
    assert_eq!((undo.origin.unwrap(), undo.undoes), (Origin::ORIGIN_UNDO, 1));
    assert!(undo.actor.is_none());
    assert_eq!(all[5].origin.unwrap(), Origin::ORIGIN_RESYNC);
}

#[test]
fn large_states_are_logged_as_digests() {
    let (_dir, store) = store();
    put(&store, 0, entry::MAX_STATE_BYTES - 200);
    put(&store, 0, 1000);
    let all = logged(&store);
    assert!(!all[0].truncated && all[1].truncated);
    assert_eq!(record("a", &all[0].after).len(), image("a", 7, entry::MAX_STATE_BYTES - 200).len());
    for state in [&all[1].before, &all[1].after] {
        assert_eq!((state.target.digest.as_str(), state.labels.len()), ("sha256:7", 0));
    }
}

#[test]
fn a_record_that_is_no_image_leaves_an_entry_that_can_be_decoded() {
    let (_dir, store) = store();
    let strange = |change: &mut Transaction<'_>| {
        // No message, and one whose name is no text.
        change.put(&namespace(0), Kind::Image, "a", b"\xff", None)?;
        change.put(&namespace(0), Kind::Image, "a", b"\x0a\x01\xff", None)?;
        work(change, &[Op::Put(0, 7, 5)])
    };
    store.writer().write_blocking(strange).unwrap();
    let all = logged(&store);
    assert_eq!(all.iter().map(|change| change.truncated).collect::<Vec<_>>(), [true; 3]);
    assert_eq!(all[2].after.target.digest, "sha256:7");
}

#[test]
fn a_damaged_record_is_logged_without_its_state() {
    let (_dir, store) = store();
    let rotten = |change: &mut Transaction<'_>| {
        let key = crate::store::schema::keys::key(&namespace(0), Kind::Image, "a");
        change.set(crate::store::schema::table::Table::Records, &key, b"rotten")
    };
    store.writer().write_blocking(rotten).unwrap();
    put(&store, 0, 1);
    let all = logged(&store);
    assert!(all[0].truncated && all[0].before.is_some());
    assert_eq!(all[0].kind.unwrap(), ChangeKind::KIND_UPDATED);
}

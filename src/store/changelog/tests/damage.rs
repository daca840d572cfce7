//! Damaged, exchanged and missing entries are found.

use super::*;

/// Puts something under a key of the log past the log.
fn overwrite(store: &Store, key: &[u8], value: Vec<u8>) {
    let key = key.to_vec();
    let put = move |change: &mut Transaction<'_>| {
        change.set(crate::store::schema::table::Table::Log, &key, &value)
    };
    store.writer().write_blocking(put).unwrap();
}

fn damage(store: &Store) -> Vec<String> {
    store.read(|snapshot| snapshot.audit_log(&mut || ())).unwrap().damage
}

#[test]
fn each_flipped_bit_of_an_entry_is_found() {
    let (_dir, store) = store();
    (0..3).for_each(|at| put(&store, at, 20));
    let key = 2_u64.to_be_bytes();
    let value = store
        .read(|s| Ok(s.view.get(crate::store::schema::table::Table::Log, &key)?.unwrap().to_vec()))
        .unwrap();
    assert_eq!(damage(&store), [""; 0]);
    for bit in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        overwrite(&store, &key, flipped);
        let found = damage(&store);
        assert!(
            found[0].contains("entry 2 of the log: the checksum is wrong"),
            "bit {bit}: {found:?}"
        );
    }
    overwrite(&store, &key, value.clone());
    assert_eq!(damage(&store), [""; 0]);
    // Its own checksum is right, but it is another's.
    let other = 9_u64.to_be_bytes();
    overwrite(&store, &other, value);
    assert!(damage(&store)[0].contains("entry 9 of the log comes where 4 is expected"));
}

#[test]
fn an_entry_that_was_exchanged_and_a_record_that_was_put_past_the_log_are_found() {
    let (_dir, store) = store();
    (0..3).for_each(|_| put(&store, 0, 20));
    let entry = store.read_log(2, 1).unwrap().entries.remove(0).bytes;
    let key = 2_u64.to_be_bytes();
    let sealed = |entry: &[u8]| crate::store::schema::value::encode(&key, entry);
    let mut forged = entry.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    overwrite(&store, &key, sealed(&forged));
    assert_eq!(
        damage(&store),
        [2, 3].map(|seq| format!("entry {seq} of the log does not follow the one before"))
    );
    overwrite(&store, &key, sealed(&entry));
    let past = |change: &mut Transaction<'_>| {
        change.skip_log();
        work(change, &[Op::Put(0, 8, 20)])
    };
    store.writer().write_blocking(past).unwrap();
    let found = damage(&store);
    assert!(found[0].contains("entry 3 of the log is the last of image \"a\""), "{found:?}");
    put(&store, 0, 20);
    let found = damage(&store);
    assert!(found[0].contains("entry 4 of the log replaces another state"), "{found:?}");
}

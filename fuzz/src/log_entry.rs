//! Entries of the log of changes. Any bytes are read as an entry, and the same bytes are read as the
//! records before and after a change whose entry is written.
//!
//! ```text
//! 0    bits 0 and 1: there is a record before, and after
//! 1..  how long the record before is, two bytes    ..    the record before, the record after
//! ```

use lmdb_images::clock;
use lmdb_images::model::Namespace;
use lmdb_images::model::image::Image;
use lmdb_images::store::changelog::entry::{self, Changed, Old};
use lmdb_images::store::{Cause, Origin};
use protobuf::Message;

use super::Input;

/// See the module.
pub fn run(data: &[u8]) {
    read(data);
    let mut input = Input(data);
    let which = input.byte();
    let length = usize::from(input.byte()) << 8 | usize::from(input.byte());
    let (before, after) = (input.bytes(length), input.0);
    let old = if which & 1 != 0 { Old::Known(before) } else { Old::Missing };
    write(old, (which & 2 != 0).then_some(after));
}

/// What is read of any bytes agrees with their decoding.
fn read(data: &[u8]) {
    let states = entry::states(data);
    let follows = entry::follows(data, 7);
    let Some(position) = entry::position(data) else {
        assert!(!follows);
        return;
    };
    let Some(change) = entry::decode(data) else { return };
    // Fields may follow that say something else; entries of ours have each of them once, no other, and end with the
    // chain.
    let is_ours =
        change.chain != 0 && change.special_fields.unknown_fields().iter().next().is_none();
    if is_ours && change.write_to_bytes().is_ok_and(|bytes| bytes == data) {
        assert_eq!((position.seq, position.commit_last), (change.seq, change.commit_last));
        assert_eq!(position.chain, change.chain);
        for (found, state) in states.into_iter().zip([&change.before, &change.after]) {
            let encoded = state.as_ref().map(|state| state.write_to_bytes().expect("a state"));
            assert_eq!(found, encoded.as_deref());
        }
    }
}

/// An entry of any records can be decoded, and has what they have.
fn write(old: Old<'_>, new: Option<&[u8]>) {
    let namespace = Namespace::parse("n").expect("a namespace");
    let changed = Changed { namespace: &namespace, name: "i", old, new };
    let body = changed
        .body(&Cause::own(Origin::ORIGIN_CLIENT), &clock::record_time())
        .expect("it is encoded");
    let (written, chain) = entry::finish(&body, 3, 5, 7).expect("it is encoded");
    assert!(entry::follows(&written, 7) && !entry::follows(&written, 8));
    let position = entry::position(&written).expect("an entry");
    assert_eq!((position.seq, position.commit_last, position.chain), (3, 5, chain));
    let change = entry::decode(&written).expect("it is decoded");
    for (record, state) in [(old.message(), &change.before), (new, &change.after)] {
        assert_eq!(record.is_some(), state.is_some());
        let (Some(record), Some(state)) = (record, state.as_ref()) else { continue };
        let Ok(mut image) = Image::parse_from_bytes(record) else {
            assert!(change.truncated);
            continue;
        };
        image.name.clear();
        assert_eq!(state.target.digest, image.target.digest);
        if !change.truncated {
            assert_eq!(state.labels, image.labels);
        }
    }
}

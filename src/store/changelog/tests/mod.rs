//! The log, over random jobs and one by one.
//!
//! - `model`: random jobs against a map; `entries`: what an entry says
//! - `retention`: old entries go; `epochs`: the log begins anew; `reading`: pages and wake-ups
//! - `damage`: what is found of damage

mod damage;
mod entries;
mod epochs;
mod model;
mod reading;
mod retention;

use std::fs;
use std::path::Path;

use protobuf::Message;

use super::*;
use crate::api::catalog::{Change, State};
use crate::api::images::Image;
use crate::model::{Namespace, Result};
use crate::store::dir::files::{DATA_FILE, JOURNAL_FILE, STORE_ID_FILE};
use crate::store::{Kind, Records, Snapshot, Store, Transaction};

fn namespace(number: usize) -> Namespace {
    Namespace::parse(["n", "m"][number % 2]).unwrap()
}

fn name(number: usize) -> String {
    ["a".to_owned(), "b".into(), "x".repeat(600)][number % 3].clone()
}

fn image(name: &str, content: u32, bytes: usize) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    image.labels.insert("l".into(), "v".repeat(bytes));
    image.target.mut_or_insert_default().digest = format!("sha256:{content}");
    image.write_to_bytes().unwrap()
}

fn changes(snapshot: &Snapshot<'_>, head: &LogHead) -> Result<Vec<Change>> {
    let (mut changes, mut chain) = (Vec::new(), None);
    snapshot.for_each_entry(0, &mut |seq, entry| {
        assert_eq!(seq, head.first + changes.len() as u64, "a hole");
        assert!(chain.is_none_or(|chain| entry::follows(entry, chain)), "the chain at {seq}");
        let change = entry::decode(entry).unwrap();
        assert_eq!((change.seq, change.chain), (seq, entry::position(entry).unwrap().chain));
        chain = Some(change.chain);
        changes.push(change);
        Ok(true)
    })?;
    assert_eq!(head.last + 1, head.first + changes.len() as u64);
    assert_eq!(chain.unwrap_or(head.chain), head.chain);
    Ok(changes)
}

/// The record of the image of that name in a state.
fn record(name: &str, state: &State) -> Vec<u8> {
    let mut image = Image::parse_from_bytes(&state.write_to_bytes().unwrap()).unwrap();
    image.name = name.into();
    image.write_to_bytes().unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, u32, usize),
    Delete(usize),
    SetAside(usize),
    Lease(usize),
}

fn work(change: &mut Transaction<'_>, ops: &[Op]) -> Result<()> {
    for op in ops {
        match op {
            Op::Put(at, content, bytes) => {
                let message = image(&name(*at), *content, *bytes);
                change.put(&namespace(at / 3), Kind::Image, &name(*at), &message, None)?;
            }
            Op::Delete(at) => {
                drop(change.delete(&namespace(at / 3), Kind::Image, &name(*at)));
            }
            Op::SetAside(at) => {
                drop(change.set_aside(&namespace(at / 3), Kind::Image, &name(*at)));
            }
            Op::Lease(at) => {
                change.put(&namespace(at / 3), Kind::Lease, &name(*at), b"", Some("soon"))?;
            }
        }
    }
    Ok(())
}

/// A copy of the files of the store, as a crash would leave them.
fn crashed(root: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [DATA_FILE, JOURNAL_FILE, STORE_ID_FILE] {
        fs::copy(root.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn put(store: &Store, at: usize, bytes: usize) {
    let job = move |change: &mut Transaction<'_>| work(change, &[Op::Put(at, 7, bytes)]);
    store.writer().write_blocking(job).unwrap();
}

fn logged(store: &Store) -> Vec<Change> {
    store.read(|snapshot| changes(snapshot, &snapshot.log_head()?.unwrap())).unwrap()
}

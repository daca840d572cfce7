//! Data files: a real one that is patched, or any bytes. The verifier gives a verdict on each in
//! bounded time; what it finds whole is opened by LMDB, read and written: that must not end the
//! process, and of records none may come out that was not put in.
//!
//! ```text
//! 0    which file: 0.. real ones, 255 the bytes that follow
//! ..   patches: page (2), offset in it (2), count (1), bytes; count 255: the file is cut there
//! ```

use std::sync::OnceLock;

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::Image;
use lmdb_images::model::{Error, Namespace, Result};
use lmdb_images::service::codec::{decode, encode};
use lmdb_images::store::{Kind, Records, Store};
use protobuf::MessageField;

use super::{Input, patched};

/// See the module.
pub fn run(data: &[u8]) {
    let file = match data.split_first() {
        Some((255, bytes)) => bytes.to_vec(),
        _ => patched(files(), Input(data)),
    };
    if super::lmdb_verify::verify(&file) {
        opened(&file);
    }
}

/// LMDB may have it: no crash, no record that was not written.
fn opened(file: &[u8]) {
    let folder = super::folder();
    std::fs::write(folder.path().join("data.mdb"), file).expect("a file");
    let store = match Store::open(folder.path()) {
        Ok(store) => store,
        // Whole, but not a store of ours any more.
        Err(error) => return assert!(!error.message().is_empty()),
    };
    let read = store.read(|s| {
        for namespace in s.namespaces()? {
            for kind in [Kind::Image, Kind::Lease] {
                for entry in s.scan(&namespace, kind)? {
                    if let Ok(message) = entry?.message() {
                        let image: Image = decode(message)?;
                        assert_eq!(encode(&image)?, message);
                    }
                }
            }
        }
        for noted in s.expiring_keys(&lmdb_images::store::RecordKey::first())? {
            not_missing(&s.expiring(&noted?.0));
        }
        Ok(())
    });
    not_missing(&read);
    let namespace = Namespace::parse("new").expect("a namespace");
    for round in 0..3 {
        let message = encode(&image("new", round)).expect("a message");
        let ns = namespace.clone();
        not_missing(&store.writer().write_blocking(move |change| {
            change.put_namespace(&ns, b"")?;
            change.put(&ns, Kind::Image, "new", &message, None)
        }));
    }
}

fn not_missing<T>(answer: &Result<T>) {
    assert!(!matches!(answer, Err(Error::NotFound(_))));
}

/// Real files: an empty store, and one with trees of two levels, long values, and free pages.
fn files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| vec![made(0), made(60), made(150)])
}

fn made(images: usize) -> Vec<u8> {
    let folder = super::folder();
    let store = Store::open(folder.path()).expect("a store");
    for namespace in ["k8s.io", "moby"] {
        let namespace = Namespace::parse(namespace).expect("a namespace");
        for number in 0..images {
            let ns = namespace.clone();
            let name = format!("docker.io/library/{number:03}{}", "x".repeat(number % 9 * 60));
            let image = image(&name, number);
            let made = store.writer().write_blocking(move |change| {
                let expires = (number % 5 == 0).then_some("2020-01-01T00:00:00Z");
                change.put_namespace(&ns, b"")?;
                change.put(&ns, Kind::Image, &name, &encode(&image)?, expires)?;
                if number % 3 == 0 {
                    change.delete(&ns, Kind::Image, &name).map(drop)
                } else {
                    Ok(())
                }
            });
            made.expect("it is written");
        }
    }
    drop(store);
    std::fs::read(folder.path().join("data.mdb")).expect("a file")
}

fn image(name: &str, number: usize) -> Image {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: format!("sha256:{number:064x}"),
        size: number as i64,
        ..Default::default()
    };
    let labels = if number.is_multiple_of(7) { number * 100 } else { 10 };
    Image {
        name: name.to_owned(),
        labels: [("filler".to_owned(), "x".repeat(labels))].into(),
        target: MessageField::some(target),
        ..Default::default()
    }
}

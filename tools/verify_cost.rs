//! What verifying a data file before LMDB maps it costs: fills a store and times it.
//!
//! ```text
//! cargo run --release --example verify_cost IMAGES [FOLDER]
//! ```
//!
//! Without a folder the store is in a temporary one. Prints the median of nine runs; the file is in the
//! kernel's memory by then.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::path::Path;
use std::time::Instant;

use lmdb_images::api::images::Image;
use lmdb_images::model::Namespace;
use lmdb_images::store::recovery::verify;
use lmdb_images::store::{Kind, Store};
use protobuf::Message;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let count: u64 = arguments.get(1).and_then(|n| n.parse().ok()).expect("how many images");
    let temporary = tempfile::tempdir().unwrap();
    let root = arguments.get(2).map_or(temporary.path(), Path::new);
    fill(root, count);
    let file = std::fs::File::open(root.join("data.mdb")).unwrap();
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let start = Instant::now();
            verify::state(&file).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{count} images, {} bytes: verified in {:.1} ms",
        file.metadata().unwrap().len(),
        times[4].as_secs_f64() * 1000.0
    );
}

fn fill(root: &Path, count: u64) {
    let store = Store::open(root).unwrap();
    let namespace = Namespace::parse("default").unwrap();
    for batch in 0..count.div_ceil(1000) {
        let namespace = namespace.clone();
        let put = move |change: &mut lmdb_images::store::Transaction<'_>| {
            for number in batch * 1000..((batch + 1) * 1000).min(count) {
                // Not in the order of names: pages get as full as they do in use.
                let name = format!(
                    "registry.example/team/image-{:016x}:1.0",
                    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                );
                change.put(&namespace, Kind::Image, &name, &message(&name, number), None)?;
            }
            Ok(())
        };
        store.writer().write_blocking(put).unwrap();
    }
}

fn message(name: &str, number: u64) -> Vec<u8> {
    let mut image = Image { name: name.into(), ..Image::default() };
    image.labels.insert("team".into(), format!("team-{}", number % 100));
    image.labels.insert("containerd.io/distribution.source.registry.example".into(), "team".into());
    let target = image.target.mut_or_insert_default();
    target.media_type = "application/vnd.oci.image.index.v1+json".into();
    target.digest = format!("sha256:{:064x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    target.size = 1000;
    image.created_at.mut_or_insert_default().seconds = 1_700_000_000;
    image.updated_at.mut_or_insert_default().seconds = 1_700_000_000;
    image.write_to_bytes().unwrap()
}

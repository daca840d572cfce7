//! A containerd's file, damaged: what can be read is read, what cannot is told, and neither takes long.

use std::io::Read;
use std::sync::OnceLock;

use lmdb_images::admin::import::containerd_scan::scan;
use lmdb_images::admin::import::containerd_schema::{FileItem, read, survey};

use super::{Input, patched};

/// More records than all files hold; a loop in the pages would make more.
const MANY: usize = 10_000;

/// The input is a file and its patches.
pub fn run(data: &[u8]) {
    let file = patched(files(), Input(data));
    if let Err(error) = survey(file.as_slice()) {
        assert!(!error.message().is_empty());
    }
    let mut count = 0;
    let read = read(file.as_slice(), |found| {
        count += 1;
        assert!(count < MANY, "the same pages are read again and again");
        if let FileItem::Namespace(name, record) = found {
            assert_eq!(name.to_string(), record.name);
        }
        Ok(())
    });
    if let Err(error) = read {
        assert!(!error.message().is_empty());
    }
    match scan(file.as_slice()) {
        Ok(scanned) => {
            assert!(scanned.images.len() < MANY, "pages that are free hold no more");
            let names = scanned.images.iter().map(|guess| (&guess.namespace, &guess.image.name));
            assert!(names.is_sorted(), "one guess for each name, in order");
        }
        Err(error) => assert!(!error.message().is_empty()),
    }
}

/// Files of real containerds.
pub(super) fn files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let packed: [&[u8]; 3] = [
            include_bytes!("../../tests/data/containerd-1.6.20.meta.db.gz"),
            include_bytes!("../../tests/data/containerd-1.7.24.meta.db.gz"),
            include_bytes!("../../tests/data/containerd-2.1.9.meta.db.gz"),
        ];
        let unpacked = |packed| {
            let mut file = Vec::new();
            flate2::read::GzDecoder::new(packed).read_to_end(&mut file).expect("a packed file");
            file
        };
        packed.into_iter().map(unpacked).collect()
    })
}

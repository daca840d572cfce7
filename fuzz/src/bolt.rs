//! A containerd's file, damaged: what can be read is read, what cannot is told, and neither takes long.

use std::io::Read;
use std::sync::OnceLock;

use lmdb_images::bolt::containerd::{Found, read, survey};

use super::Input;

const PAGE: usize = 4096;

/// More records than all files hold; a loop in the pages would make more.
const MANY: usize = 10_000;

/// The first byte says which file, the rest are patches: page, offset, how many bytes, bytes.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let files = files();
    let mut file = files[usize::from(input.byte()) % files.len()].clone();
    while !input.is_over() {
        let pages = file.len().div_ceil(PAGE).max(1);
        let at = input.number() % pages * PAGE + input.number() % PAGE;
        match input.byte() {
            255 => file.truncate(at),
            count => {
                let bytes = input.bytes(count.into());
                for (place, byte) in file.iter_mut().skip(at).zip(bytes) {
                    *place = *byte;
                }
            }
        }
    }
    if let Err(error) = survey(file.as_slice()) {
        assert!(!error.message().is_empty());
    }
    let mut count = 0;
    let read = read(file.as_slice(), |found| {
        count += 1;
        assert!(count < MANY, "the same pages are read again and again");
        if let Found::Namespace(name, record) = found {
            assert_eq!(name.to_string(), record.name);
        }
        Ok(())
    });
    if let Err(error) = read {
        assert!(!error.message().is_empty());
    }
}

/// Files of real containerds.
fn files() -> &'static [Vec<u8>] {
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

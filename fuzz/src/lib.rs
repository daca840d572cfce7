//! What is fuzzed. A target is a function of any bytes that panics when something is not as it must be:
//!
//! - [`apply`]: sequences of requests to the catalogue; [`page_token`]: its page tokens
//! - [`batch`]: the lines of JSON that `lmdb-images apply` reads
//! - [`bbolt_live`]: containerd's own file, as the live reader reads it
//! - [`bolt`]: containerd's own file, as `import --bolt` reads it
//! - [`filter`]: filters are parsed, printed, parsed again, and matched; [`regexp`]: Go's patterns
//! - [`journal`]: entries of the store's journal; [`log_entry`]: entries of its log of changes
//! - [`record`]: what may lie in a stored value
//! - [`requests`]: sequences of requests through the whole service, against a model of what is there
//! - [`frames`]: a ttrpc connection's bytes through a real socket
//! - [`verify`]: data files; one that is found whole is opened by LMDB and read
//!
//! `scripts/soak/fuzz` runs them under libFuzzer; `tests/differential/fuzz_corpus.rs` replays what is in `seeds/`, where
//! every input lies that once found something.

pub mod apply;
pub mod batch;
#[path = "../../crates/bbolt-read/fuzz/bbolt_live.rs"]
pub mod bbolt_live;
pub mod bolt;
pub mod filter;
pub mod frames;
pub mod journal;
#[path = "../../crates/lmdb-verify/fuzz/verify.rs"]
pub mod lmdb_verify;
pub mod log_entry;
pub mod page_token;
pub mod record;
#[path = "../../crates/go-compat/fuzz/regexp.rs"]
pub mod regexp;
pub mod requests;
pub mod service;
pub mod verify;

/// A function of any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("apply", apply::run),
    ("batch", batch::run),
    ("bbolt_live", bbolt_live::run),
    ("bolt", bolt::run),
    ("filter", filter::run),
    ("frames", frames::run),
    ("journal", journal::run),
    ("log_entry", log_entry::run),
    ("page_token", page_token::run),
    ("record", record::run),
    ("regexp", regexp::run),
    ("requests", requests::run),
    ("verify", verify::run),
];

/// An input taken apart from its front. What is missing at its end is zero, or empty.
pub struct Input<'d>(pub &'d [u8]);

impl<'d> Input<'d> {
    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    /// A number of two bytes, little-endian.
    pub fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// The next `count` bytes, or what is left.
    pub fn bytes(&mut self, count: usize) -> &'d [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Bytes behind their number.
    pub fn piece(&mut self) -> &'d [u8] {
        let count = self.number();
        self.bytes(count)
    }
}

/// Bytes of a page, as the files have them.
pub const PAGE: usize = 4096;

/// One of `files`, patched: a byte says which, then come page, offset, how many bytes, and these; 255
/// bytes cut the file off there.
pub fn patched(files: &[Vec<u8>], mut input: Input<'_>) -> Vec<u8> {
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
    file
}

/// A folder for a store: where `TMPDIR` says, or in memory, as a sync to a disk would be most of the
/// time.
pub fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = match std::env::var_os("TMPDIR") {
        None if memory.is_dir() => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
        _ => tempfile::tempdir(),
    };
    made.expect("a folder")
}

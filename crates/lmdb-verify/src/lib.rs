//! Reads and verifies LMDB data files in safe Rust, without LMDB: it uses `pread` and checks every bound.
//!
//! LMDB is C that trusts its file. A page number past the end of the file is a SIGBUS, and a broken page may
//! corrupt memory. A program that verifies the file before LMDB maps it turns both into an error:
//!
//! ```no_run
//! let file = std::fs::File::open("data.mdb")?;
//! match lmdb_verify::State::read_live(&file) {
//!     Ok(state) => println!("transaction {}: {} pages", state.transaction, state.used),
//!     Err(damage) => println!("LMDB must not open this file: {damage}"),
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! - [`layout`]: views of the bytes of pages, nodes and meta records
//! - [`pages`]: the source of pages, and sets of page numbers
//! - [`tree`]: a walk over a tree of pages that verifies each
//! - [`state`]: a whole state of the file: meta page, trees, free pages
//!
//! # What is verified
//!
//! - both meta pages: magic, version, page size, and transactions that follow one another
//! - every page of every tree: its number, kind, bounds, depth, and the order of its keys
//! - every page belongs to one tree, to the list of free pages, or to neither (leaked), never to two
//! - long values lie in the file; the counts of each database are right
//! - a file that is shorter than its last page lacks only free pages
//!
//! Values are not verified: LMDB has no checksums. Not supported, and refused as damage, are databases with
//! `DUPSORT`, `REVERSEKEY` or `INTEGERKEY`, maps of more than [`MAX_MAP_SIZE`], encrypted files, and data
//! versions other than 1 (LMDB 0.9). Numbers are in the byte order of the machine, as LMDB writes them.

#![forbid(unsafe_code)]
#![deny(unreachable_pub)]

pub mod layout;
pub mod pages;
pub mod state;
pub mod tree;

pub use pages::{Damage, ReadAt};
pub use state::{MAX_MAP_SIZE, Metas, State};

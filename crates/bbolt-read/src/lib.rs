//! Reads bbolt files, the format of etcd's `bbolt` for Go, without a lock, a memory map or unsafe
//! code, and never writes. There are two uses:
//!
//! - [`LiveFile`] reads a file exactly while another process writes it, as containerd writes its
//!   `meta.db`. bbolt's own lock keeps every other process from that; a reader that only calls
//!   `pread` needs no lock.
//! - [`FileAtRest`] reads a file that no process writes, and that may be damaged. Where a page
//!   cannot be read, a walk names the missing keys and goes on behind them.
//!
//! [`Scan`] is for a file whose trees cannot be walked from the top: it looks at every page.
//!
//! ```no_run
//! # fn main() -> Result<(), bbolt_read::LiveError> {
//! let path = "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db";
//! let file = bbolt_read::LiveFile::open(path)?;
//! let names = file.read(|snapshot| {
//!     let Some(images) = snapshot.bucket(&[b"v1", b"default", b"images"])? else {
//!         return Ok(Vec::new());
//!     };
//!     let entries = snapshot.entries(&images).take(100);
//!     entries.map(|entry| Ok(entry?.key)).collect::<Result<Vec<_>, _>>()
//! })?;
//! println!("{} names in transaction {}", names.value.len(), names.txid);
//! # Ok(())
//! # }
//! ```
//!
//! # The format
//!
//! bbolt's version 2, as machines of little-endian byte order write it:
//!
//! ```text
//! page      = id u64, flags u16, count u16, overflow u32; then elements; then their keys and values.
//!             `overflow` more pages belong to it.
//! meta page = magic u32, version u32, page size u32, flags u32, root bucket, freelist page u64,
//!             high water mark u64, txid u64, FNV-1a checksum u64. There are two: pages 0 and 1.
//! branch    = count × (pos u32, key size u32, page u64); then keys
//! leaf      = count × (flags u32, pos u32, key size u32, value size u32); then keys and values.
//!             pos counts from the element itself; flag 1 is a bucket.
//! bucket    = root page u64, sequence u64; with root 0 its only page, a leaf, follows at once
//! ```
//!
//! Nothing of a file is believed: a page must have its own number, a tree's flags, elements and
//! keys within its bounds, and keys in order and between those of its parent. The depth of a tree,
//! the bytes of a page and the pages of a walk have bounds. A damaged or hostile file gives errors
//! that name the page, never a panic or an endless walk. bbolt has a checksum on its meta pages
//! only, so a changed byte inside a key or a value goes unseen, as it does in bbolt itself.
//!
//! # Why a live read is exact
//!
//! What follows was read in bbolt 1.3.6, 1.3.10 and 1.4.0, which `go.mod` of containerd 1.6.20,
//! 1.7.24 and 2.1.9 names. *Tn* is the transaction with the number *n*.
//!
//! **What bbolt does.**
//!
//! 1. One process writes (an exclusive `flock`), one transaction at a time. Tn+1 begins after the
//!    commit of Tn has ended, and takes the newest whole meta page as its base.
//! 2. A commit calls, in this order: `pwrite` of every changed page, `fdatasync`, `pwrite` of the
//!    meta page, `fdatasync`. Then `Commit` returns, and only then does containerd answer its
//!    client. When the file must grow, `ftruncate` and `fsync` come first.
//! 3. Tn writes its meta page to page n mod 2, which leaves the one of Tn−1 as it is.
//! 4. A transaction writes to pages that were free before it began, or that lie behind the high
//!    water mark. A page that Tn frees is *pending*: it becomes free when a later writable
//!    transaction begins, so Tn+1 is the first that may write to it. A `bbolt` transaction that
//!    reads in the same process delays that further; this reader is none and delays nothing.
//! 5. A transaction that is rolled back before its commit has written nothing. A commit that fails
//!    has written to pages that were free, and perhaps a part of its meta page. When the meta page
//!    is whole and its `fdatasync` failed, bbolt's own readers see the new state too.
//!
//! **It follows** that the pages which Tn shows are whole as long as the meta page of Tn+1 has not
//! been written: Tn+2 is the first transaction that writes over one of them, and it begins after
//! that (1, 2, 4).
//!
//! **What the reader does.** It takes the whole meta page with the highest number, *n*, and walks.
//! *Afterwards* it reads the other meta page, then the one of Tn again. The read counts when Tn's
//! is the same, byte for byte, and the other is not a whole one of a higher number. Then
//!
//! - Tn+1's meta page had not been written when the walk ended. It would come over the other page.
//!   Found there whole, it has a higher number. If the other page is torn, either Tn+1 is just
//!   being written, which is what we want, or Tn+3 is; then Tn+2 had committed before, over Tn's
//!   own page, and that is read later and so is not the same. Hence the order of the two.
//! - All pages that were read were whole, and were those of Tn.
//! - No transaction after Tn had been answered when the check began, so the read is never older
//!   than an answer that came before it. It may be newer than the last answer: it sees Tn from the
//!   moment its meta page is written, some time before `Commit` returns, and so do bbolt's own
//!   readers. What is read so may be lost when the machine loses power before the `fdatasync`
//!   ends, exactly as with a read through containerd.
//!
//! Otherwise the read begins again, a bounded number of times. An error is treated in the same
//! way: in a try that counts, it is [damage](LiveError::Damaged); in any other try it is dropped.
//!
//! **Why the older meta page alone is not enough.** If one of the two is torn, the whole one may be
//! two transactions old. Say page 0 is read and holds T4, then T5 and T6 commit, each with an answer,
//! and T7 is being written over T5 when page 1 is read. Page 1 is torn, so T4 is the only one that is
//! whole, yet T5 and T6 were answered, and T6 may have written over pages of T4. A check that asks
//! only for the same newest number can repeat that mistake. The check above does not accept it: it
//! reads page 0 last, and finds T6. A page that stays torn, as a crash may leave it, does no harm:
//! the other one stays the same, and is what bbolt itself goes by, until the next commit mends it.
//!
//! A copy that bbolt's `Tx.WriteTo` made has the higher number on page 0 though it may be odd. The
//! next transaction then writes over the newest meta page itself. The check finds that too, as it
//! wants the page of Tn to be the same.
//!
//! **Options of bbolt.**
//!
//! - `NoFreelistSync` (containerd sets it since 1.7): the freelist is not written but found by a walk when the
//!   file is opened. This reader never looks at it. What is free does not change.
//! - `NoSync` (containerd 2.1's `no_sync`): without `fdatasync` the order of the `pwrite` calls is the
//!   same, and a read sees the newest of them. Less survives a power loss, of reads and writes alike.
//! - `NoGrowSync`, `InitialMmapSize`, `Mlock`: they concern the size of the file and of bbolt's map. A
//!   page beyond the end of the file cannot be in use by a committed transaction.
//!
//! **What it does not cover.**
//!
//! - *Another file under the same path*, after a compaction (`bbolt compact` and `bbolt.Compact` write
//!   to another file) or a restore: see [`LiveFile::is_current_path`].
//! - *Another program than bbolt that writes into the file*, such as a restore by `cp` over it.
//! - *File systems where a read need not see another process's write.* `pwrite` and `pread` of a
//!   local Linux file system share one page cache, and so does bbolt's map: what a `pwrite` that
//!   ended has written is seen by every `pread` that begins afterwards. NFS, FUSE and the like do not
//!   promise that; [`LiveFile::file_system_type`] tells, and refusing them is up to the caller.
//! - *overlayfs*, when the file is opened before the writer has opened it: the writer then gets a copy.
//!   Open it afterwards.
//! - *A commit that fails with an error of the disk* on a file system that then throws away its cached
//!   pages. The meta page could go back. A read that counts still saw what bbolt's readers saw then.

#![forbid(unsafe_code)]
#![deny(unreachable_pub)]

mod at_rest;
mod damage;
mod live;
mod live_file;
mod meta;
mod page;
mod scan;
mod snapshot;
mod source;

pub use at_rest::FileAtRest;
pub use damage::Damage;
pub use live::{DEFAULT_MAX_TRIES, Exact, LiveError, LiveReader};
pub use live_file::LiveFile;
pub use scan::Scan;
pub use snapshot::{Bucket, Entries, Entry, Lost, Snapshot, Value};
pub use source::ReadAt;

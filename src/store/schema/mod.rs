//! The schema: which database and key holds what.
//!
//! - [`keys`]: the keys of records; [`value`]: the header and checksum of a record
//! - [`tables`], [`table`]: the databases; [`databases`]: opening them; [`migrate`]: bringing a store of an
//!   older version to this one
//! - [`checkpoint_id`]: the identifier of the last checkpoint; [`log_meta`]: what `meta` says of the log
//! - [`index`]: which images have a digest or a label
//!
//! ```text
//! data.mdb
//! ├── meta                              facts about the environment
//! │   ├── schema                        → version of this schema, u32 little-endian
//! │   ├── checkpoint                    → identifier of the last checkpoint, u64 little-endian
//! │   ├── journal                       → the checkpoint that the journal's header named then, u64
//! │   │                                   little-endian; absent if no journal is needed
//! │   ├── log_epoch                     → epoch of the log, 16 bytes; absent while the log is off
//! │   ├── log_first                     → number of the log's oldest entry, u64 little-endian
//! │   ├── log_keep                      → how much of the log the last daemon kept: bytes and seconds,
//! │   │                                   u64 little-endian each
//! │   └── uuid                          → UUID of the store, as text
//! ├── records                           containerd's bolt path, flattened; values as in `value`
//! │   ├── v1/<namespace>                → Namespace: its labels; exists for every namespace
//! │   ├── v1/<namespace>/images/<name>  → Image, with containerd's fields only
//! │   └── v1/<namespace>/leases/<id>    → StoredLease: a lease and its resources
//! ├── index                             the images that have a digest or a label: see `index`
//! │   └── <what, and name>              → nothing
//! ├── expiring                          records with the label containerd.io/gc.expire
//! │   └── <key of the record>           → the value of the label
//! ├── aside                             images that a containerd no longer had after a gap
//! │   └── <key of the record>           → the last record that was set aside under this key
//! └── log                               the changes of images, in order: see `changelog`
//!     └── <number, u64 big-endian>      → Change; values as in `value`
//! ```
//!
//! Keys are bytes in LMDB's order. A namespace has no slash in its name, so a record of one is
//! never inside another.
//!
//! **Long names.** LMDB takes keys of 511 bytes, containerd names of any length. A name of more
//! than [`NAME_PREFIX_BYTES`](keys::NAME_PREFIX_BYTES) bytes is keyed by its first `NAME_PREFIX_BYTES` bytes, the byte `0xff` and the
//! SHA-256 of the whole name; the name itself is in the record. `0xff` is in no UTF-8 text, so the
//! two forms never collide, and all long names with one head are adjacent, behind the short name
//! that is the head itself: sorting each such run by name gives the byte order of all names
//! (the iterators of `read` do).
//!
//! **Versions.** Every change of the layout gets a new version. [`migrate`] migrates an older store, in
//! the transaction that writes the new version. A newer store is refused.
//!
//! | version | added |
//! |---|---|
//! | 1 | records, expiring, aside |
//! | 2 | index |
//! | 3 | checkpoint: the journal may have changes that are not here |
//! | 4 | journal: a journal that is missing or of another store is noticed |
//! | 5 | log: every change of an image |

pub(crate) mod checkpoint_id;
pub(crate) mod databases;
pub mod index;
pub(crate) mod keys;
pub(crate) mod log_meta;
pub(crate) mod migrate;
pub(crate) mod table;
pub(crate) mod tables;
pub mod value;

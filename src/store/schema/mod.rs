//! The schema: which key holds what.
//!
//! ```text
//! data.mdb
//! ├── meta                              facts about the environment
//! │   ├── schema                        → version of this schema, u32 little-endian
//! │   ├── checkpoint                    → number of the last one, any u64, little-endian
//! │   ├── journal                       → the checkpoint that the journal's header named then, the
//! │   │                                   same way; absent where no journal is needed: see `journal`
//! │   ├── log_epoch                     → the epoch of the log, 16 bytes; absent while the log is off
//! │   ├── log_first                     → number of the oldest entry of the log, u64 little-endian
//! │   ├── log_keep                      → what the last daemon was told to keep: bytes, seconds
//! │   └── uuid                          → what tells this store from others, as text
//! ├── records                           containerd's bolt path, flattened; values as in `value`
//! │   ├── v1/<namespace>                → Namespace: its labels; exists for every namespace
//! │   ├── v1/<namespace>/images/<name>  → Image, with containerd's fields only
//! │   └── v1/<namespace>/leases/<id>    → StoredLease: a lease and its resources
//! ├── index                             which images have a digest or a label: see `index`
//! │   └── <what, and name>              → nothing
//! ├── expiring                          records with the label containerd.io/gc.expire
//! │   └── <key of the record>           → the value of the label
//! ├── aside                             images that a containerd no longer had after a gap
//! │   └── <key of the record>           → the record as it was, the latest that went so
//! └── log                               the changes of images, in order: see `store::changelog`
//!     └── <number, u64 big-endian>      → Change; values as in `value`
//! ```
//!
//! Keys are bytes in LMDB's order. A namespace has no slash in its name, so a record of one is
//! never inside another.
//!
//! **Long names.** LMDB takes keys of 511 bytes, containerd names of any length. A name of more
//! than [`NAME_HEAD`](keys::NAME_HEAD) bytes is keyed by its first `NAME_HEAD` bytes, the byte `0xff` and the
//! SHA-256 of the whole name; the name itself is in the record. `0xff` is in no UTF-8 text, so the
//! two forms never meet, and all long names with one head lie side by side, behind the short name
//! that is the head itself: sorting each such run by name gives the byte order of all names
//! (a scan does).
//!
//! **Rule of change.** Another layout is another version. `migrate` brings older ones to this one, in
//! the transaction that writes the new number; newer ones are refused.
//!
//! | version | brought |
//! |---|---|
//! | 1 | records, expiring, aside |
//! | 2 | index |
//! | 3 | checkpoint: the journal may have changes that are not here |
//! | 4 | journal: a journal that is missing or of another store is noticed |
//! | 5 | log: every change of an image |
//!
//! - [`keys`]: the keys; [`value`]: the header and checksum around a record
//! - [`tables`], [`table`]: the databases; [`databases`]: opening them
//! - [`checkpoint_id`]: what `meta` says about the last checkpoint
//! - [`log_meta`]: what `meta` says about the log
//! - [`index`]: which images have a digest or a label
//! - [`migrate`]: bringing a store of an older version to this one

pub mod checkpoint_id;
pub mod databases;
pub mod index;
pub mod keys;
pub mod log_meta;
pub mod migrate;
pub mod table;
pub mod tables;
pub mod value;

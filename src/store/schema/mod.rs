//! The schema: the databases, their keys and their values.
//!
//! - [`keys`]: the keys of records; [`value`]: the header and checksum of a record
//! - [`tables`], [`table`]: the databases; [`databases`]: opening them; [`migrate`]: bringing a store of an
//!   older version to this one
//! - [`checkpoint_id`]: the identifier of the last checkpoint; [`log_meta`]: the entries of `meta` about the log
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
//! ├── aside                             images that containerd no longer had after a gap in its events
//! │   └── <key of the record>           → the last record that was set aside under this key
//! └── log                               the changes of images, in order: see `changelog`
//!     └── <number, u64 big-endian>      → Change; values as in `value`
//! ```
//!
//! Keys are bytes in LMDB's order. The name of a namespace has no slash, so the keys of two namespaces never
//! overlap.
//!
//! **Long names.** A key of LMDB has at most 511 bytes, and a name in containerd has any length. The key of a
//! name of more than [`NAME_PREFIX_BYTES`](keys::NAME_PREFIX_BYTES) bytes has the first `NAME_PREFIX_BYTES`
//! bytes of the name, the byte `0xff` and the SHA-256 of the whole name. The name itself is in the record. No
//! UTF-8 text contains `0xff`, so a short and a long name never have the same key. All long names with one
//! beginning are adjacent, after the short name that equals the beginning. The iterators of `read` sort each
//! such run by name, which gives the byte order of all names.
//!
//! **Versions.** Every change of the layout gets a new version. [`migrate`] migrates an older store, in
//! the transaction that writes the new version. A newer store is refused.
//!
//! | version | added |
//! |---|---|
//! | 1 | records, expiring, aside |
//! | 2 | index |
//! | 3 | checkpoint: the journal may have changes that `records` lacks |
//! | 4 | journal: a missing journal, or one of another store, is noticed |
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

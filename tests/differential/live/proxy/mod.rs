//! A daemon in front of a real containerd. What it answers from containerd's files is what containerd
//! itself answers: messages, pieces, codes and sentences, over random names, digests, offsets, sizes and
//! namespaces, and content that is missing, half written or damaged. Where the files cannot be used,
//! containerd answers.
//!
//! `LMDB_IMAGES_DIFFERENTIAL_SECONDS` says for how long random requests are compared, and
//! `LMDB_IMAGES_SEED` is the seed.

mod catalog;
mod content;
mod faults;
mod front;
mod large;
mod random;
mod restart;

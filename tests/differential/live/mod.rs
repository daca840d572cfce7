//! A real containerd beside a daemon of ours. `LMDB_IMAGES_CONTAINERD_BIN=DIR` names the folder of the
//! `containerd`; the tests are ignored without `--ignored`, and fail without that folder.

mod engine;
mod gc;
mod image_store;
mod images;
mod linearizable;
mod proxy;
mod show;
mod standalone;
mod text;

//! The message types of the API, generated from `protos/` by `build.rs`.
//!
//! One set serves both transports. Nothing here is written by hand.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api/mod.rs"));
}

pub use generated::{
    containers, content, descriptor, event, events, health, image_events, images, imagestore,
    introspection, leases, namespace, namespace_events, transfer, version,
};

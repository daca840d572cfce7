//! The message types of the API, which `build.rs` generates from `protos/`.
//!
//! Both transports use the same types.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/api/mod.rs"));
}

pub use generated::{
    catalog, containers, content, descriptor, error_details, event, events, health, image_events,
    images, imagestore, introspection, leases, namespace, namespace_events, status, transfer,
    version,
};

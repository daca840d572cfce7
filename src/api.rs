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

/// A message of the API. Its layout takes the place of the library's descriptors (`MessageFull`): one use of a
/// descriptor, of `Any::pack` or of a message's `Display` brings the library's reflection into the program.
pub trait ApiMessage: protobuf::Message {
    /// Which of its fields are messages.
    const LAYOUT: Layout;
}

impl ApiMessage for protobuf::well_known_types::empty::Empty {
    const LAYOUT: Layout = Layout { name: "google.protobuf.Empty", messages: &[] };
}

/// Which fields of a message are messages.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The full name of the message: `containerd.services.images.v1.Image`.
    pub name: &'static str,
    /// The number of each field that is a message or a list of messages, and the layout of that message. The
    /// entries of a map are not listed.
    pub messages: &'static [(u32, Layout)],
}

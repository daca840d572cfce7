//! Generates the message types from `protos/`, in pure Rust: no protoc is needed.

use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};
use protobuf_codegen::{Codegen, Customize, CustomizeCallback};

const PROTOS: &[&str] = &[
    "protos/containerd/events/image_events.proto",
    "protos/containerd/events/namespace_events.proto",
    "protos/containerd/types/descriptor.proto",
    "protos/containerd/types/event.proto",
    "protos/containerd/types/platform.proto",
    "protos/containerd/types/transfer/imagestore.proto",
    "protos/containerd/services/containers/v1/containers.proto",
    "protos/containerd/services/content/v1/content.proto",
    "protos/containerd/services/events/v1/events.proto",
    "protos/containerd/services/introspection/v1/introspection.proto",
    "protos/containerd/services/leases/v1/leases.proto",
    "protos/containerd/services/transfer/v1/transfer.proto",
    "protos/containerd/services/images/v1/images.proto",
    "protos/containerd/services/namespaces/v1/namespace.proto",
    "protos/containerd/services/version/v1/version.proto",
    "protos/google/rpc/error_details.proto",
    "protos/google/rpc/status.proto",
    "protos/grpc/health/v1/health.proto",
    "protos/lmdbimages/v1/catalog.proto",
];

/// Implements `ApiMessage` of `src/api.rs` for each message.
struct Layouts;

impl CustomizeCallback for Layouts {
    fn message(&self, message: &MessageDescriptor) -> Customize {
        Customize::default().before(&format!(
            "impl crate::api::ApiMessage for {} {{ const LAYOUT: crate::api::Layout = {}; }}",
            message.name(),
            layout(message)
        ))
    }
}

/// The layout of a message, as Rust. No message of `protos/` has itself as a field.
fn layout(message: &MessageDescriptor) -> String {
    let mut fields = String::new();
    for field in message.fields() {
        if let RuntimeFieldType::Singular(RuntimeType::Message(nested))
        | RuntimeFieldType::Repeated(RuntimeType::Message(nested)) = field.runtime_field_type()
        {
            fields += &format!("({}, {}), ", field.number(), layout(&nested));
        }
    }
    format!("crate::api::Layout {{ name: {:?}, messages: &[{fields}] }}", message.full_name())
}

fn main() {
    println!("cargo:rerun-if-changed=protos");
    Codegen::new()
        .pure()
        .include("protos")
        .inputs(PROTOS)
        // Ordered maps make the encoding of a record unique: equal images are equal bytes.
        .customize(Customize::default().btreemaps(true).gen_mod_rs(true))
        .customize_callback(Layouts)
        .cargo_out_dir("api")
        .run_from_script();
}

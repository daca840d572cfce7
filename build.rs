//! Generates the message types from `protos/`, in pure Rust: no protoc is needed.

use protobuf_codegen::{Codegen, Customize};

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

fn main() {
    println!("cargo:rerun-if-changed=protos");
    Codegen::new()
        .pure()
        .include("protos")
        .inputs(PROTOS)
        // Ordered maps make the encoding of a record unique: equal images are equal bytes.
        .customize(Customize::default().btreemaps(true).gen_mod_rs(true))
        .cargo_out_dir("api")
        .run_from_script();
}

//! Generates the message types from `protos/`, in pure Rust: no protoc is needed.

use protobuf_codegen::{Codegen, Customize};

const PROTOS: &[&str] = &[
    "protos/containerd/types/descriptor.proto",
    "protos/containerd/services/images/v1/images.proto",
    "protos/containerd/services/namespaces/v1/namespace.proto",
    "protos/containerd/services/version/v1/version.proto",
    "protos/grpc/health/v1/health.proto",
];

fn main() {
    println!("cargo:rerun-if-changed=protos");
    Codegen::new()
        .pure()
        .include("protos")
        .inputs(PROTOS)
        // Ordered maps give every record one encoding: equal images are equal bytes.
        .customize(Customize::default().btreemaps(true).gen_mod_rs(true))
        .cargo_out_dir("api")
        .run_from_script();
}

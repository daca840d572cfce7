//! Bytes that attackers send, written by hand: no client library would send these.

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{CreateImageRequest, GetImageRequest, Image, ListImagesRequest};
use protobuf::{Message, MessageField};

use super::client::IMAGES;

/// What an HTTP/2 client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::fill(&mut bytes);
    bytes
}

pub fn image(name: String) -> Vec<u8> {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: format!("sha256:{}", "a".repeat(64)),
        size: 1,
        ..Default::default()
    };
    let image = Image {
        name,
        labels: [("filler".to_owned(), "abcdefgh".repeat(40))].into(),
        target: MessageField::some(target),
        ..Default::default()
    };
    let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
    request.write_to_bytes().unwrap()
}

pub fn large(size: usize) -> Vec<u8> {
    image("x".repeat(size))
}

pub fn filters(filters: Vec<String>) -> Vec<u8> {
    ListImagesRequest { filters, ..Default::default() }.write_to_bytes().unwrap()
}

pub fn get() -> Vec<u8> {
    GetImageRequest { name: "7".into(), ..Default::default() }.write_to_bytes().unwrap()
}

pub fn ttrpc_get(stream: u32) -> Vec<u8> {
    ttrpc_call(stream, "Get", &get())
}

pub fn ttrpc_list(stream: u32) -> Vec<u8> {
    ttrpc_call(stream, "List", &[])
}

pub fn ttrpc_call(stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    ttrpc_call_in("n", stream, method, message)
}

pub fn ttrpc_call_in(namespace: &str, stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    let mut request = ttrpc::Request::new();
    request.service = IMAGES.into();
    request.method = method.into();
    request.payload = message.to_vec();
    request.metadata.push(ttrpc::proto::KeyValue {
        key: "containerd-namespace-ttrpc".into(),
        value: namespace.into(),
        ..Default::default()
    });
    let payload = request.write_to_bytes().unwrap();
    let head = ttrpc::proto::MessageHeader::new_request(stream, payload.len() as u32);
    [Vec::from(head), payload].concat()
}

/// A frame of HTTP/2.
pub fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first; with the window of each reply.
pub fn opening(window: u32) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    [PREFACE.to_vec(), h2(4, 0, 0, &settings)].concat()
}

/// A header that is not indexed.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

pub fn head(method: &str) -> Vec<u8> {
    head_of(&format!("/{IMAGES}/{method}"))
}

fn head_of(path: &str) -> Vec<u8> {
    [
        // POST, http, and a path by the names that HPACK knows.
        &[0x83, 0x86, 0x04, path.len() as u8][..],
        path.as_bytes(),
        &literal(b":authority", b"localhost"),
        &literal(b"content-type", b"application/grpc"),
        &literal(b"containerd-namespace", b"n"),
    ]
    .concat()
}

pub fn grpc_call(stream: u32, method: &str, message: &[u8]) -> Vec<u8> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    [h2(1, 4, stream, &head(method)), h2(0, 1, stream, &framed)].concat()
}

pub fn grpc_get(stream: u32) -> Vec<u8> {
    grpc_call(stream, "Get", &get())
}

pub fn grpc_list(stream: u32) -> Vec<u8> {
    grpc_call(stream, "List", &[])
}

/// One call with a message of many frames, sent whatever the daemon has room for.
pub fn grpc_large(message: &[u8]) -> Vec<u8> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let mut all = [opening(0), h2(1, 4, 1, &head("Create"))].concat();
    for piece in framed.chunks(16 << 10) {
        all.extend(h2(0, 0, 1, piece));
    }
    all
}

/// A call whose message never comes, with this many more bytes of headers.
pub fn grpc_begun(stream: u32, headers: usize) -> Vec<u8> {
    let fillers = (0..headers / 120)
        .flat_map(|number| literal(format!("x{number}").as_bytes(), &[b'a'; 120]));
    h2(1, 4, stream, &[head("Get"), fillers.collect()].concat())
}

/// The head of a gRPC message of 16 MiB.
const ANNOUNCED: &[u8] = &[0, 0, 0xff, 0xff, 0xff];

/// Calls with the first bytes of a message of 16 MiB each, as many as the window of a stream lets.
pub fn grpc_waiting() -> Vec<u8> {
    let first = [ANNOUNCED, &[0; 8_000]].concat();
    let call = |stream| [h2(1, 4, stream, &head("Create")), h2(0, 0, stream, &first)].concat();
    [opening(0), (0..32).flat_map(|n| call(2 * n + 1)).collect()].concat()
}

/// A call with a message of 16 MiB. Only some of its bytes are sent, each in a frame of its own.
pub fn grpc_crumbs(stream: u32) -> Vec<u8> {
    let crumbs = h2(0, 0, stream, &[0]).repeat(2_000);
    [h2(1, 4, stream, &head("Create")), h2(0, 0, stream, ANNOUNCED), crumbs].concat()
}

/// The head of a ttrpc frame of 4 MiB, and its first bytes.
pub fn ttrpc_waiting() -> Vec<u8> {
    [Vec::from(ttrpc::proto::MessageHeader::new_request(1, 4 << 20)), vec![0; 100]].concat()
}

/// A call that a daemon in front of a containerd passes on.
pub fn grpc_version(stream: u32) -> Vec<u8> {
    let head = head_of("/containerd.services.version.v1.Version/Version");
    [h2(1, 4, stream, &head), h2(0, 1, stream, &[0; 5])].concat()
}

/// An image with a number of the shortest possible labels.
pub fn labels(count: usize) -> Vec<u8> {
    let labels = (0..count).map(|number| (format!("{number:x}"), String::new())).collect();
    let image = Image { name: "labels".into(), labels, ..Default::default() };
    let request = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
    request.write_to_bytes().unwrap()
}

/// A request with a number of entries of metadata.
pub fn ttrpc_metadata(count: usize) -> Vec<u8> {
    let request = ttrpc::Request {
        metadata: vec![ttrpc::proto::KeyValue::default(); count],
        ..Default::default()
    };
    let payload = request.write_to_bytes().unwrap();
    [Vec::from(ttrpc::proto::MessageHeader::new_request(1, payload.len() as u32)), payload].concat()
}

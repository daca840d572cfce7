//! Putting content, images and namespaces into a containerd.

use std::fmt::Write as _;

use lmdb_images::api::images::{CreateImageRequest, Image};
use protobuf::Message;
use sha2::{Digest, Sha256};
use tonic::transport::Channel;

use super::front::{Answer, call};

/// A message by hand: of this service only the reading half has types here.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn number(mut self, field: u8, value: i64) -> Self {
        if value != 0 {
            self.0.push(field << 3);
            self.varint(value as u64);
        }
        self
    }

    pub fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

pub fn digest(data: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(data) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// `content.v1.WriteContentRequest`; action 1 writes, 2 commits.
fn write(action: i64, data: &[u8], labels: &[(String, String)]) -> Vec<u8> {
    let mut message = Fields::default()
        .number(1, action)
        .bytes(2, digest(data).as_bytes())
        .number(3, data.len() as i64)
        .bytes(4, digest(data).as_bytes())
        .bytes(6, if action == 1 { &data[..data.len() / 2] } else { data });
    for (key, value) in labels {
        let entry = Fields::default().bytes(1, key.as_bytes()).bytes(2, value.as_bytes()).done();
        message = message.bytes(7, &entry);
    }
    message.done()
}

/// Commits a blob.
pub async fn put(channel: &Channel, namespace: &str, data: &[u8], labels: &[(String, String)]) {
    let answer =
        call(channel, "content.v1.Content/Write", Some(namespace), write(2, data, labels)).await;
    assert_eq!(answer.status, Ok(()), "writing {} bytes", data.len());
}

/// Writes the first half of a blob, and leaves it so.
pub async fn put_half(channel: &Channel, namespace: &str, data: &[u8]) {
    let path = "content.v1.Content/Write";
    let answer = call(channel, path, Some(namespace), write(1, data, &[])).await;
    assert_eq!(answer.status, Ok(()));
}

pub async fn create(channel: &Channel, namespace: &str, image: Image) -> Answer {
    let request = CreateImageRequest { image: Some(image).into(), ..Default::default() };
    let message = request.write_to_bytes().unwrap();
    call(channel, "images.v1.Images/Create", Some(namespace), message).await
}

/// `namespaces.v1.CreateNamespaceRequest`
pub async fn create_namespace(channel: &Channel, name: &str, labels: &[(String, String)]) {
    let mut record = Fields::default().bytes(1, name.as_bytes());
    for (key, value) in labels {
        let entry = Fields::default().bytes(1, key.as_bytes()).bytes(2, value.as_bytes()).done();
        record = record.bytes(2, &entry);
    }
    let message = Fields::default().bytes(1, &record.done()).done();
    let answer = call(channel, "namespaces.v1.Namespaces/Create", Some(name), message).await;
    assert_eq!(answer.status, Ok(()));
}

/// `content.v1.ReadContentRequest`
pub fn read(digest: &str, offset: i64, size: i64) -> Vec<u8> {
    Fields::default().bytes(1, digest.as_bytes()).number(2, offset).number(3, size).done()
}

/// `content.v1.InfoRequest`, `images.v1.GetImageRequest` and `namespaces.v1.GetNamespaceRequest`.
pub fn named(name: &str) -> Vec<u8> {
    Fields::default().bytes(1, name.as_bytes()).done()
}

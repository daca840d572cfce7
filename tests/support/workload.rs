//! What the tests of crashes and power cuts write: images whose content is a number, which shows in
//! two places of the record, so that half a record is seen.

use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, Image, UpdateImageRequest, UpdateImageResponse,
};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;

use crate::support::{Client, Failed, create, image};

pub const NAMESPACE: &str = "kill";

/// The content of an image, or no image.
pub type Content = Option<u64>;

pub fn record(name: &str, content: u64) -> Image {
    let mut image = image(name);
    image.labels.insert("content".into(), content.to_string());
    let filler = format!("{content}:{}", "x".repeat((content * 97 % 5000) as usize));
    image.target.as_mut().unwrap().annotations.insert("content".into(), filler);
    image
}

/// The content of a stored image, which must be whole.
pub fn content(image: &Image) -> u64 {
    let content = image.labels["content"].parse().unwrap();
    let whole = record(&image.name, content);
    assert_eq!((&image.labels, &image.target), (&whole.labels, &whole.target), "half a record");
    content
}

/// Gives an image that content: by a Create, an Update or a Delete.
pub async fn change(client: &Client, name: &str, exists: bool, new: Content) -> Result<(), Failed> {
    match new {
        Some(content) if exists => {
            let change = UpdateImageRequest {
                image: MessageField::some(record(name, content)),
                ..Default::default()
            };
            client.call::<UpdateImageResponse>("Update", NAMESPACE, &change).await.map(drop)
        }
        Some(content) => client
            .call::<CreateImageResponse>("Create", NAMESPACE, &create(record(name, content)))
            .await
            .map(drop),
        None => {
            let gone = DeleteImageRequest { name: name.into(), ..Default::default() };
            client.call::<Empty>("Delete", NAMESPACE, &gone).await.map(drop)
        }
    }
}

/// The store is whole by `check`: structure, checksums, and index and records agree.
pub fn whole(root: &std::path::Path) {
    let report = lmdb_images::admin::check::run(root).unwrap();
    assert!(report.is_whole() && report.notes.is_empty(), "{:?} {:?}", report.damage, report.notes);
}

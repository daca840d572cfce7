//! What may lie in a stored value behind a checksum that is right: any message. It is looked at in
//! its encoded form, decoded, listed, changed and removed, as an image, a lease and a namespace.
//!
//! ```text
//! 0    how long the key is    ..    the key    ..    the message
//! ```

use lmdb_images::api::images::{
    DeleteImageRequest, GetImageRequest, ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use lmdb_images::api::leases::ListRequest;
use lmdb_images::api::namespace::GetNamespaceRequest;
use lmdb_images::model::filter::{Fields, Filter};
use lmdb_images::model::image::Image;
use lmdb_images::model::image::encoded::Encoded;
use lmdb_images::model::{Error, Namespace};
use lmdb_images::service::Images;
use lmdb_images::store::Kind;
use lmdb_images::store::schema::{index, value};
use protobuf::{Message, MessageField};

use super::Input;
use super::service::{Service, call};

/// What is asked of every image.
const FILTERS: &[&str] = &[
    "name==i",
    "target.digest~=^sha256:a",
    "labels.a==b",
    "labels.\"a.b\"",
    "name~=o$",
    "annotations.a!=b",
];

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let count = input.byte();
    let (key, message) = (input.bytes(count.into()), input.0);
    assert_eq!(value::decode(key, &value::encode(key, message)), Ok(message));
    if let Ok(found) = value::decode(key, message) {
        assert_eq!(value::encode(key, found), message);
    }
    let entries = index::entries(key, message);
    assert!(entries.iter().all(|entry| entry.len() <= key.len() + 64));
    let decoded = Image::parse_from_bytes(message).ok();
    if let Some(encoded) = Encoded::new(message) {
        assert_eq!(encoded.is_decodable(), decoded.is_some());
    }
    if let (Some(encoded), Some(image)) = (Encoded::new(message), &decoded) {
        is_same(&encoded, image);
    }
    stored(message, decoded.as_ref());
}

/// The view of an encoded image shows what the decoded one has.
fn is_same(encoded: &Encoded<'_>, image: &Image) {
    assert_eq!(encoded.name(), image.name.as_bytes());
    assert_eq!(encoded.digest(), image.target.digest.as_bytes());
    assert!(encoded.labels().eq(image.labels.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes()))));
    let path = |key: &[u8]| vec![b"labels".to_vec(), key.to_vec()];
    for path in
        encoded.labels().map(|(key, _)| path(key)).chain([path(b"a"), vec![b"name".to_vec()]])
    {
        assert_eq!(encoded.field(&path), image.field(&path));
    }
    for filter in FILTERS {
        let filter = Filter::parse_all(&[filter]).expect("a filter");
        assert_eq!(filter.matches(encoded), filter.matches(image), "{filter}");
    }
}

/// The message lies in the store as an image, a lease and a namespace.
fn stored(message: &[u8], image: Option<&Image>) {
    let service = Service::get();
    let (namespace, call) = (Namespace::parse("n").expect("a namespace"), call(Some("n")));
    let writer = service.local.store().writer();
    let (ns, record) = (namespace.clone(), message.to_vec());
    let put = writer.write_blocking(move |change| {
        change.put_namespace(&ns, &record)?;
        change.put(&ns, Kind::Lease, "l", &record, None)?;
        change.put(&ns, Kind::Image, "i", &record, None)
    });
    put.expect("it is stored");
    let get = GetImageRequest { name: "i".into(), ..Default::default() };
    let found = service.run(service.local.get(&call, get.clone())).expect("it is there").message;
    assert!(found.ends_with(message));
    for filter in FILTERS {
        let request = ListImagesRequest { filters: vec![(*filter).into()], ..Default::default() };
        match (service.run(service.local.list(&call, request)), image) {
            // What this program did not write is given out as it is.
            (Ok(reply), Some(image))
                if image.write_to_bytes().is_ok_and(|bytes| bytes == message) =>
            {
                let filter = Filter::parse_all(&[filter]).expect("a filter");
                let listed = ListImagesResponse::parse_from_bytes(&reply.message).expect("a reply");
                // What is under another's name is found by neither.
                assert!(listed.images.len() <= 1);
                assert!(
                    image.name != "i" || listed.images.len() == usize::from(filter.matches(image))
                );
            }
            (answer, _) => is_told(&answer),
        }
    }
    let changed = Image {
        name: "i".into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    let mask = protobuf::well_known_types::field_mask::FieldMask {
        paths: vec!["labels.a".into()],
        ..Default::default()
    };
    let update = UpdateImageRequest {
        image: MessageField::some(changed),
        update_mask: MessageField::some(mask),
        ..Default::default()
    };
    is_told(&service.run(service.local.update(&call, update)));
    is_told(&service.run(service.alone.list_leases(&call, ListRequest::new())));
    let get = GetNamespaceRequest { name: "n".into(), ..Default::default() };
    is_told(&service.run(service.alone.get_namespace(&call, get)));
    is_told(&service.run(service.local.collect()));
    let delete = DeleteImageRequest { name: "i".into(), ..Default::default() };
    service.run(service.local.delete(&call, delete)).expect("it is deleted");
    writer
        .write_blocking(move |change| change.delete_namespace(&namespace))
        .expect("it is deleted");
}

/// A record that is none is the one fault that is allowed here.
fn is_told<T>(answer: &Result<T, Error>) {
    if !matches!(answer, Err(Error::DataLoss(_))) {
        super::service::is_told(answer);
    }
}

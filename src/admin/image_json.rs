//! The JSON form of an image record. docs/json.md promises its fields to scripts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::api::descriptor::Descriptor;
use crate::api::images::Image;
use crate::model::Namespace;

/// An image record in its JSON form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageJson {
    /// Namespace of the image.
    pub(crate) namespace: String,
    /// Name of the image.
    pub(crate) name: String,
    /// Descriptor that the name refers to.
    pub(crate) target: Target,
    /// Labels of the image.
    pub(crate) labels: BTreeMap<String, String>,
    /// Time of creation; `None` if the record has none.
    pub(crate) created_at: Option<Timestamp>,
    /// Time of the last change; `None` if the record has none.
    pub(crate) updated_at: Option<Timestamp>,
}

/// A descriptor with the field names of the OCI image specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Target {
    /// Media type of the content.
    pub(crate) media_type: String,
    /// Digest of the content.
    pub(crate) digest: String,
    /// Size of the content in bytes: of the manifest or index, without the layers.
    pub(crate) size: i64,
    /// Annotations; left out of the JSON if empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl ImageJson {
    /// Converts the record of an image in `namespace`.
    pub(crate) fn new(namespace: &Namespace, image: Image) -> Self {
        let time =
            |time: protobuf::MessageField<protobuf::well_known_types::timestamp::Timestamp>| {
                let time = time.into_option()?;
                Timestamp::new(time.seconds, time.nanos).ok()
            };
        Self {
            namespace: namespace.to_string(),
            name: image.name,
            target: Target::new(image.target.into_option().unwrap_or_default()),
            labels: image.labels,
            created_at: time(image.created_at),
            updated_at: time(image.updated_at),
        }
    }
}

impl Target {
    /// Converts a descriptor.
    pub(crate) fn new(target: Descriptor) -> Self {
        Self {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size,
            annotations: target.annotations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_documented() {
        let image = Image {
            name: "docker.io/library/a:1".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            target: Some(Descriptor {
                media_type: "application/vnd.oci.image.index.v1+json".into(),
                digest: "sha256:00".into(),
                size: 7,
                ..Descriptor::default()
            })
            .into(),
            created_at: Some(protobuf::well_known_types::timestamp::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5,
                ..Default::default()
            })
            .into(),
            ..Image::default()
        };
        let record = ImageJson::new(&Namespace::parse("default").unwrap(), image);
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"namespace":"default","name":"docker.io/library/a:1","target":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:00","size":7},"labels":{"k":"v"},"createdAt":"2023-11-14T22:13:20.000000005Z","updatedAt":null}"#
        );
    }
}

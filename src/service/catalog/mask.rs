//! Read masks: the fields of an image that a client wants (AIP-157).

use go_compat::quote::quote;
use protobuf::well_known_types::field_mask::FieldMask;

use crate::api::descriptor::Descriptor;
use crate::model::image::Image;
use crate::model::{Error, Result};
use crate::service::codec::{decode, encode};

/// The most paths: each field once is fewer.
const MAX_PATHS: usize = 16;

/// The fields that are wanted. The name always is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReadMask {
    labels: bool,
    created_at: bool,
    updated_at: bool,
    media_type: bool,
    digest: bool,
    size: bool,
    annotations: bool,
}

impl ReadMask {
    /// Reads a mask; none if all fields are wanted.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is no field.
    pub(crate) fn parse(mask: Option<&FieldMask>) -> Result<Option<Self>> {
        let Some(mask) = mask else { return Ok(None) };
        if mask.paths.len() > MAX_PATHS {
            return Err(Error::invalid_argument(format_args!(
                "read_mask has {} paths; at most {MAX_PATHS} are accepted",
                mask.paths.len()
            )));
        }
        let mut wanted = Self::default();
        for path in &mask.paths {
            match path.as_str() {
                "*" => return Ok(None),
                "name" => {}
                "labels" => wanted.labels = true,
                "created_at" => wanted.created_at = true,
                "updated_at" => wanted.updated_at = true,
                "target" => {
                    (wanted.media_type, wanted.digest) = (true, true);
                    (wanted.size, wanted.annotations) = (true, true);
                }
                "target.media_type" => wanted.media_type = true,
                "target.digest" => wanted.digest = true,
                "target.size" => wanted.size = true,
                "target.annotations" => wanted.annotations = true,
                _ => {
                    return Err(Error::invalid_argument(format_args!(
                        "read_mask: {} is no field of an image that can be asked for; the fields are name, \
                         labels, target, target.media_type, target.digest, target.size, \
                         target.annotations, created_at and updated_at",
                        quote(path)
                    )));
                }
            }
        }
        Ok(Some(wanted))
    }

    /// The encoded image with the wanted fields of `record`.
    pub(crate) fn apply(self, record: &[u8]) -> Result<Vec<u8>> {
        let image: Image = decode(record)?;
        let has_target = self.media_type || self.digest || self.size || self.annotations;
        let target = image.target.into_option().filter(|_| has_target).map(|target| Descriptor {
            media_type: if self.media_type { target.media_type } else { String::new() },
            digest: if self.digest { target.digest } else { String::new() },
            size: if self.size { target.size } else { 0 },
            annotations: if self.annotations { target.annotations } else { Default::default() },
            ..Descriptor::default()
        });
        encode(&Image {
            name: image.name,
            labels: if self.labels { image.labels } else { Default::default() },
            target: target.into(),
            created_at: image.created_at.into_option().filter(|_| self.created_at).into(),
            updated_at: image.updated_at.into_option().filter(|_| self.updated_at).into(),
            ..Image::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::well_known_types::timestamp::Timestamp;

    fn mask(paths: &[&str]) -> Result<Option<ReadMask>> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        ReadMask::parse(Some(&FieldMask { paths, ..FieldMask::default() }))
    }

    #[test]
    fn a_mask_keeps_the_name_and_the_fields_that_it_names() {
        let time = || Some(Timestamp { seconds: 7, ..Timestamp::default() }).into();
        let image = Image {
            name: "a:1".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            target: Some(Descriptor {
                media_type: "m".into(),
                digest: "sha256:00".into(),
                size: 3,
                annotations: [("k".to_owned(), "v".to_owned())].into(),
                ..Descriptor::default()
            })
            .into(),
            created_at: time(),
            updated_at: time(),
            ..Image::default()
        };
        let record = encode(&image).unwrap();
        let read = |paths: &[&str]| {
            decode::<Image>(&mask(paths).unwrap().unwrap().apply(&record).unwrap()).unwrap()
        };
        let all = ["labels", "target", "created_at", "updated_at"];
        assert_eq!(read(&all), image);
        let name = || Image { name: "a:1".into(), ..Image::default() };
        assert_eq!(read(&[]), name());
        assert_eq!(read(&["name"]), name());
        assert_eq!(read(&["labels"]), Image { labels: image.labels.clone(), ..name() });
        assert_eq!(read(&["updated_at"]), Image { updated_at: time(), ..name() });
        let digest = Descriptor { digest: "sha256:00".into(), ..Descriptor::default() };
        assert_eq!(read(&["target.digest"]), Image { target: Some(digest).into(), ..name() });
    }

    #[test]
    fn a_path_that_is_no_field_is_named() {
        assert_eq!(ReadMask::parse(None), Ok(None));
        assert_eq!(mask(&["labels", "*"]), Ok(None));
        for path in ["", "Name", "labels.k", "target.digests", "etag"] {
            let error = mask(&["name", path]).unwrap_err();
            assert!(error.message().contains(&format!("read_mask: {}", quote(path))), "{error}");
        }
        assert!(mask(&["name"; 17]).unwrap_err().message().contains("17 paths"));
    }
}

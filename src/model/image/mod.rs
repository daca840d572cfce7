//! Image records: validation, the stored fields, and updates, as in containerd 2.3
//! (`core/metadata/images.go`).
//!
//! A record is the API's `Image` message: the store keeps it as it goes over the wire.

pub mod encoded;
pub(crate) mod field;
pub mod plan;

use std::collections::BTreeMap;

use field::Field;
use go_compat::quote::quote;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use super::filter::Fields;
use super::{Error, Result, digest, label};
use crate::api::descriptor::Descriptor;
pub use crate::api::images::Image;

/// Takes the image of a request and keeps the fields that containerd keeps: no unknown fields, no times.
/// `request` names the message in the error.
///
/// # Errors
/// `InvalidArgument` if `image` or `target` is not set. containerd 1.6 answers the same, 1.7 and 2
/// crash.
pub(crate) fn from_request(image: MessageField<Image>, request: &str) -> Result<Image> {
    let Some(image) = image.into_option() else {
        return Err(Error::invalid_argument(format_args!("{request}.image must be set")));
    };
    // containerd checks the name first, and this sentence has no ": invalid argument".
    if image.name.is_empty() {
        return Err(Error::InvalidArgument("Image.Name required".into()));
    }
    let Some(target) = image.target.into_option() else {
        return Err(Error::invalid_argument(format_args!(
            "{request}.image.target must be set, image {}",
            quote(&image.name)
        )));
    };
    Ok(Image {
        name: image.name,
        labels: image.labels,
        target: MessageField::some(known_fields(target)),
        ..Image::default()
    })
}

/// Converts a record of another store: keeps its times and drops unknown fields.
pub(crate) fn normalize_record(image: Image) -> Image {
    let time = |t: MessageField<Timestamp>| MessageField::some(normalize_timestamp(&t));
    Image {
        name: image.name,
        labels: image.labels,
        target: image.target.into_option().map(known_fields).into(),
        created_at: time(image.created_at),
        updated_at: time(image.updated_at),
        ..Image::default()
    }
}

fn known_fields(descriptor: Descriptor) -> Descriptor {
    Descriptor { special_fields: Default::default(), ..descriptor }
}

/// Validates the labels, then the target. containerd does not validate annotations.
pub(crate) fn validate(image: &Image) -> Result<()> {
    label::validate_sizes(&image.labels)
        .map_err(|e| Error::InvalidArgument(format!("image.Labels: {e}")))?;
    let target = &image.target;
    if let Err(reason) = digest::validate(&target.digest) {
        let digest = quote(&target.digest);
        return Err(Error::invalid_argument(format_args!(
            "target.Digest {digest} invalid: {reason}"
        )));
    }
    if target.size <= 0 {
        return Err(Error::invalid_argument("target.Size must be greater than zero"));
    }
    if target.media_type.is_empty() {
        return Err(Error::invalid_argument("target.MediaType must be set"));
    }
    Ok(())
}

/// Drops labels and annotations with an empty value, which containerd does not keep. Refuses an empty
/// key.
pub(crate) fn drop_empty(image: &mut Image) -> Result<()> {
    label::drop_empty(&mut image.labels, "image.Labels")?;
    label::drop_empty(&mut image.target.mut_or_insert_default().annotations, "target.Annotations")
}

/// Applies `change` to the record `current`, field by field in the order of `mask`. An empty mask
/// replaces labels and target.
///
/// # Errors
/// `InvalidArgument` if the mask names a field that cannot be updated.
pub fn update(current: &mut Image, change: &Image, mask: &[String]) -> Result<()> {
    if mask.is_empty() {
        current.labels.clone_from(&change.labels);
        current.target.clone_from(&change.target);
        return Ok(());
    }
    // Paths may repeat or overlap, and each reads the original `change`. Of several equal paths that copy a
    // whole field only the last is applied: it overwrites what the earlier ones did.
    let target = change.target.get_or_default();
    let last = |name: &str| mask.iter().rposition(|path| path == name);
    let copies = ["labels", "target", "annotations"].map(|name| (name, last(name)));
    for (number, path) in mask.iter().enumerate() {
        if copies.iter().any(|(name, last)| path == name && *last != Some(number)) {
            continue;
        }
        if let Some(key) = path.strip_prefix("labels.") {
            let value = change.labels.get(key).cloned().unwrap_or_default();
            current.labels.insert(key.to_owned(), value);
        } else if let Some(key) = path.strip_prefix("annotations.") {
            let value = target.annotations.get(key).cloned().unwrap_or_default();
            current.target.mut_or_insert_default().annotations.insert(key.to_owned(), value);
        } else {
            match path.as_str() {
                "labels" => current.labels = change.labels.clone(),
                "target" => current.target = MessageField::some(target.clone()),
                "annotations" => {
                    current.target.mut_or_insert_default().annotations = target.annotations.clone();
                }
                _ => {
                    return Err(Error::invalid_argument(format_args!(
                        "cannot update {} field on image {}",
                        quote(path),
                        quote(&current.name)
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Brings the nanoseconds into 0..10⁹ by carrying into the seconds, as Go's `time.Unix` does.
pub(crate) fn normalize_timestamp(time: &Timestamp) -> Timestamp {
    const SECOND: i32 = 1_000_000_000;
    Timestamp {
        seconds: time.seconds.wrapping_add(time.nanos.div_euclid(SECOND).into()),
        nanos: time.nanos.rem_euclid(SECOND),
        ..Timestamp::default()
    }
}

impl Fields for Image {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        match Field::at(path)? {
            Field::Name => non_empty(&self.name),
            Field::Digest => non_empty(&self.target.digest),
            Field::MediaType => non_empty(&self.target.media_type),
            Field::Label(key) => entry(&self.labels, key.parts()),
            Field::Annotation(key) => entry(&self.target.annotations, key.parts()),
        }
    }
}

/// Returns `None` for an empty field: filters treat it as absent.
pub(crate) fn non_empty(text: &str) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text.as_bytes())
}

/// Returns the value whose key is the rest of a path, joined by dots.
pub fn entry<'m>(map: &'m BTreeMap<String, String>, path: &[Vec<u8>]) -> Option<&'m [u8]> {
    let key = String::from_utf8(path.join(&b'.')).ok()?;
    map.get(&key).map(String::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn image(labels: &[(&str, &str)]) -> Image {
        Image {
            name: "i".into(),
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            target: MessageField::some(Descriptor {
                media_type: "m".into(),
                digest: DIGEST.into(),
                size: 1,
                ..Descriptor::default()
            }),
            ..Image::default()
        }
    }

    fn mask(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn a_request_that_crashes_containerd_is_an_invalid_argument() {
        for unset in [
            MessageField::none(),
            MessageField::some(Image { name: "i".into(), ..Image::default() }),
        ] {
            assert!(matches!(
                from_request(unset, "CreateImageRequest"),
                Err(Error::InvalidArgument(m)) if m.contains("must be set")
            ));
        }
    }

    #[test]
    fn unknown_fields_and_client_times_are_dropped() {
        let mut given = image(&[]);
        given.created_at = MessageField::some(Timestamp { seconds: 7, ..Timestamp::default() });
        given.special_fields.mut_unknown_fields().add_varint(99, 1);
        given.target.as_mut().unwrap().special_fields.mut_unknown_fields().add_varint(99, 1);
        assert_eq!(from_request(MessageField::some(given), "R").unwrap(), image(&[]));
    }

    #[test]
    fn masks_apply_in_order_and_a_missing_key_empties() {
        let mut current = image(&[("a", "1"), ("b", "2")]);
        update(
            &mut current,
            &image(&[("c", "3"), ("a", "9")]),
            &mask(&["labels", "labels.b", "labels.a"]),
        )
        .unwrap();
        drop_empty(&mut current).unwrap();
        assert_eq!(current, image(&[("a", "9"), ("c", "3")]));
    }

    #[test]
    fn only_the_last_of_the_paths_that_copy_a_map_is_applied() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut given = image(&[("a", "9")]);
        given.target.as_mut().unwrap().annotations = [label("n", "1")].into();
        for (paths, labels, annotations) in [
            (vec!["labels", "labels.b", "labels"], vec![label("a", "9")], vec![]),
            (
                vec!["labels.b", "annotations", "target"],
                vec![label("b", "")],
                vec![label("n", "1")],
            ),
            (vec!["target", "annotations.m", "annotations"], vec![], vec![label("n", "1")]),
        ] {
            let mut current = image(&[]);
            if labels.first().is_some_and(|(key, _)| key == "b") {
                given.labels.remove("b");
            }
            update(&mut current, &given, &mask(&paths)).unwrap();
            assert_eq!(current.labels, labels.into_iter().collect(), "{paths:?}");
            let found = &current.target.annotations;
            assert!(annotations.is_empty() || *found == annotations.into_iter().collect());
        }
        let labels: Vec<_> = (0..20_000).map(|n| (n.to_string(), "v".repeat(100))).collect();
        let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let (large, mut current) = (image(&labels), image(&[]));
        // 45,000 copies of 20,000 labels would take minutes.
        update(&mut current, &large, &mask(&["labels", "target", "annotations"].repeat(15_000)))
            .unwrap();
        assert_eq!(current.labels.len(), 20_000);
    }

    #[test]
    fn an_unknown_path_is_named() {
        let error = update(&mut image(&[]), &image(&[]), &mask(&["name"])).unwrap_err();
        assert_eq!(
            error.message(),
            "cannot update \"name\" field on image \"i\": invalid argument"
        );
    }

    #[test]
    fn times_carry_like_go() {
        let at = |seconds, nanos| Timestamp { seconds, nanos, ..Timestamp::default() };
        assert_eq!(normalize_timestamp(&at(5, -1)), at(4, 999_999_999));
        assert_eq!(normalize_timestamp(&at(5, 2_000_000_001)), at(7, 1));
        assert_eq!(normalize_timestamp(&at(i64::MAX, 1_000_000_000)), at(i64::MIN, 0));
    }
}

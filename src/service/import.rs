//! The names of an imported image. containerd's import of an archive gives each target an annotation with
//! the source of its names, which are the target's other annotations and the prefixes of the request
//! (`core/transfer/image/imagestore.go`, `core/images/archive/reference.go`).

use crate::api::descriptor::Descriptor;
use crate::api::imagestore::ImageReference;
use crate::model::{Error, Result};

/// The annotation with the source of the names. An import removes it, so it is never stored.
const SOURCE: &str = "io.containerd.import.ref-source";
/// The annotation with a full name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The annotation with a name or only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The value for names from annotations.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Annotated;

/// Removes the annotation from a target that has it.
///
/// # Errors
/// If it names a source that containerd does not know.
pub(crate) fn take_source(target: &mut Descriptor) -> Result<Option<Annotated>> {
    match target.annotations.remove(SOURCE).as_deref() {
        None => Ok(None),
        Some("annotation") => Ok(Some(Annotated)),
        Some(_) => Err(Error::invalid_argument("ref source not supported")),
    }
}

/// The names of a target: for each prefix the name in its annotations, and a name by its digest.
pub(crate) fn names(
    references: &[ImageReference],
    target: &Descriptor,
) -> impl Iterator<Item = String> {
    references.iter().filter(|reference| reference.is_prefix).flat_map(|reference| {
        let named = annotated(reference, target);
        let is_digested = reference.add_digest && (named.is_none() || !reference.skip_named_digest);
        let digested = is_digested.then(|| format!("{}@{}", reference.name, target.digest));
        named.into_iter().chain(digested)
    })
}

/// The name in the annotations, if it fits the prefix.
fn annotated(reference: &ImageReference, target: &Descriptor) -> Option<String> {
    let annotation = |key| target.annotations.get(key).filter(|name| !name.is_empty());
    if let Some(name) = annotation(IMAGE_NAME) {
        // A full name gets no prefix.
        return expanded(reference, name).filter(|expanded| expanded == name);
    }
    expanded(reference, annotation(REF_NAME)?)
}

/// A full name unchanged, or a tag behind the prefix.
fn expanded(reference: &ImageReference, name: &str) -> Option<String> {
    let prefix = &reference.name;
    if prefix.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{prefix}:{name}"));
    }
    let has_prefix = || {
        let rest = name.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    };
    (reference.allow_overwrite || has_prefix()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(annotations: &[(&str, &str)]) -> Descriptor {
        let annotations =
            annotations.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        Descriptor {
            digest: "d".into(),
            annotations: annotations.collect(),
            ..Descriptor::default()
        }
    }

    #[test]
    fn names_follow_from_annotations_and_prefixes() {
        let prefix = |name: &str, flags: &str| ImageReference {
            name: name.into(),
            is_prefix: !flags.contains('-'),
            allow_overwrite: flags.contains('o'),
            add_digest: flags.contains('d'),
            skip_named_digest: flags.contains('s'),
            ..ImageReference::default()
        };
        for (annotation, value, name, flags, expected) in [
            (REF_NAME, "latest", "r/a", "", vec!["r/a:latest"]),
            (REF_NAME, "latest", "r/a", "-", vec![]),
            (REF_NAME, "latest", "", "od", vec!["@d"]),
            (REF_NAME, "", "r/a", "", vec![]),
            (REF_NAME, "", "r/a", "d", vec!["r/a@d"]),
            (REF_NAME, "latest", "r/a", "d", vec!["r/a:latest", "r/a@d"]),
            (REF_NAME, "latest", "r/a", "ds", vec!["r/a:latest"]),
            (REF_NAME, "r/b:1", "r/a", "", vec![]),
            (REF_NAME, "r/b:1", "r/a", "ds", vec!["r/a@d"]),
            (REF_NAME, "r/b:1", "r/a", "o", vec!["r/b:1"]),
            (REF_NAME, "r/ab:1", "r/a", "", vec![]),
            (REF_NAME, "r/a:1", "r/a", "", vec!["r/a:1"]),
            (REF_NAME, "r/a/b:1", "r/a", "", vec!["r/a/b:1"]),
            (REF_NAME, "r/a@d", "r/a", "", vec!["r/a@d"]),
            (REF_NAME, "r/a", "r/a", "", vec!["r/a"]),
            (IMAGE_NAME, "latest", "r/a", "o", vec![]),
            (IMAGE_NAME, "r/a:1", "r/a", "", vec!["r/a:1"]),
            (IMAGE_NAME, "r/b:1", "r/a", "", vec![]),
            (IMAGE_NAME, "r/b:1", "r/a", "o", vec!["r/b:1"]),
            (IMAGE_NAME, "r/b:1", "r/a", "od", vec!["r/b:1", "r/a@d"]),
        ] {
            let references = [prefix(name, flags)];
            let target = target(&[(annotation, value)]);
            let found: Vec<_> = names(&references, &target).collect();
            assert_eq!(found, expected, "{annotation} {value:?} {name:?} {flags:?}");
        }
        // The whole name is asked first, and alone.
        let both = target(&[(IMAGE_NAME, "r/b:1"), (REF_NAME, "latest")]);
        assert_eq!(names(&[prefix("r/a", "")], &both).count(), 0);
    }

    #[test]
    fn the_source_is_taken_away_and_must_be_known() {
        let mut named = target(&[(SOURCE, "annotation"), ("a", "b")]);
        assert_eq!(take_source(&mut named), Ok(Some(Annotated)));
        assert_eq!(named, target(&[("a", "b")]));
        assert_eq!(take_source(&mut named), Ok(None));
        let other = take_source(&mut target(&[(SOURCE, "")])).unwrap_err();
        assert_eq!(
            other,
            Error::InvalidArgument("ref source not supported: invalid argument".into())
        );
    }
}

//! Transfer from image store to image store: what `ctr images tag` of 2.x calls.
//!
//! Every other transfer moves content, of which there is none here.

use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::api::descriptor::Descriptor;
use crate::api::images::Image;
use crate::api::imagestore::ImageStore;
use crate::api::transfer::TransferRequest;
use crate::model::{Error, Result};

/// Names for the target of another.
#[derive(Debug, PartialEq)]
pub struct Tag {
    /// The image that is there.
    pub source: String,
    to: ImageStore,
}

/// The tag that a request asks for.
pub fn tag(request: &TransferRequest) -> Result<Tag> {
    let (Some(from), Some(to)) = (store(&request.source)?, store(&request.destination)?) else {
        return Err(Error::Unimplemented(format!(
            "a transfer from {} to {} moves content: this socket is lmdb-images, which holds image \
             names only; send it to containerd's own socket",
            kind(&request.source),
            kind(&request.destination)
        )));
    };
    Ok(Tag { source: from.name, to })
}

impl Tag {
    /// The images to make of the source's target. Names that are prefixes only are for images that
    /// are unpacked from an archive: here they say nothing, as in containerd.
    pub fn images(&self, target: &Descriptor) -> Result<Vec<Image>> {
        let first = Some(self.to.name.clone()).filter(|name| !name.is_empty());
        let others = self.to.extra_references.iter().filter(|reference| !reference.is_prefix);
        let others = others.map(|reference| match reference.add_digest {
            true => format!("{}@{}", reference.name, target.digest),
            false => reference.name.clone(),
        });
        let image = |name| Image {
            name,
            labels: self.to.labels.clone(),
            target: Some(target.clone()).into(),
            ..Image::default()
        };
        let images: Vec<Image> = first.into_iter().chain(others).map(image).collect();
        if images.is_empty() { Err(Error::not_found("no image name found")) } else { Ok(images) }
    }
}

fn kind(any: &Any) -> &str {
    if any.type_url.is_empty() { "nothing" } else { &any.type_url }
}

fn store(any: &Any) -> Result<Option<ImageStore>> {
    // The type URL may have a host before it.
    if any.type_url.rsplit('/').next() != Some("containerd.types.transfer.ImageStore") {
        return Ok(None);
    }
    ImageStore::parse_from_bytes(&any.value)
        .map(Some)
        .map_err(|e| Error::invalid_argument(format_args!("{}: {e}", any.type_url)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::imagestore::ImageReference;

    #[test]
    fn names_are_the_first_and_all_that_are_no_prefixes() {
        let reference = |name: &str, is_prefix, add_digest| ImageReference {
            name: name.into(),
            is_prefix,
            add_digest,
            ..ImageReference::default()
        };
        let target = Descriptor { digest: "sha256:d".into(), ..Descriptor::default() };
        let names = |name: &str, extra_references: Vec<ImageReference>| {
            let to = ImageStore { name: name.into(), extra_references, ..ImageStore::default() };
            let images = Tag { source: "s".into(), to }.images(&target)?;
            assert!(images.iter().all(|image| *image.target == target));
            Ok(images.into_iter().map(|image| image.name).collect::<Vec<_>>())
        };
        let references = vec![
            reference("p", true, true),
            reference("b", false, true),
            reference("", false, false),
        ];
        assert_eq!(names("a", references.clone()).unwrap(), ["a", "b@sha256:d", ""]);
        assert_eq!(names("", references).unwrap(), ["b@sha256:d", ""]);
        let none = Error::NotFound("no image name found: not found".into());
        assert_eq!(names("", vec![reference("p", true, false)]), Err(none));
    }
}

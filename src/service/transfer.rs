//! Transfer from image store to image store: what `ctr images tag` of 2.x calls.
//!
//! Every other transfer moves content, of which there is none here.

use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::api::imagestore::ImageStore;
use crate::api::transfer::TransferRequest;
use crate::model::{Error, Result};

/// A name for the target of another.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag {
    /// The image that is there.
    pub source: String,
    /// The names it gets.
    pub names: Vec<String>,
    /// Their labels.
    pub labels: super::events::Labels,
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
    if let Some(prefix) = to.extra_references.iter().find(|r| r.is_prefix) {
        return Err(Error::Unimplemented(format!(
            "a transfer to names with the prefix {:?} is not offered here",
            prefix.name
        )));
    }
    let mut names: Vec<_> =
        to.extra_references.into_iter().map(|reference| reference.name).collect();
    names.insert(0, to.name);
    names.retain(|name| !name.is_empty());
    if names.is_empty() {
        return Err(Error::not_found("no image name provided"));
    }
    Ok(Tag { source: from.name, names, labels: to.labels })
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

//! A batch of changes: what a request may hold, and what must be true for each item.

use std::collections::HashMap;

use go_compat::quote::quote;

use super::etag::etag;
use crate::api::catalog::apply_item::Change as RequestedChange;
use crate::api::catalog::precondition::Is;
use crate::api::catalog::{ApplyItem, ApplyRequest, Put};
use crate::model::image::{self, Image};
use crate::model::{Error, Result, digest};
use crate::service::codec::{decode, encode};
use crate::service::local;

/// The most items of a batch.
pub const MAX_ITEMS: usize = 1000;

/// The most bytes that the names, the images and the images that they replace have together: all
/// changes of a batch are in one message of a watch.
pub(crate) const MAX_BATCH_BYTES: usize = 2 << 20;

/// A valid batch.
#[derive(Debug)]
pub struct Batch {
    /// The items. No two have the same name.
    pub items: Vec<BatchItem>,
    /// Whether each item succeeds or fails by itself.
    pub allow_partial: bool,
    /// The bytes of its names and images.
    pub bytes: usize,
}

/// A change of one image, with its precondition.
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// The name of the image.
    pub name: String,
    /// The precondition.
    pub precondition: Option<Precondition>,
    /// The change.
    pub change: ItemChange,
}

/// The change of an item.
#[derive(Debug, Clone)]
pub enum ItemChange {
    /// Makes the image, or replaces the labels and the target of the existing image.
    Put(Image),
    /// Replaces these fields of the existing image.
    Update(Image, Vec<String>),
    /// Removes the image.
    Remove,
}

/// A precondition of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// There is no image.
    Absent,
    /// The image has this target.
    Digest(String),
    /// The image is this version.
    Etag(String),
}

/// The result of an applied item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The image's etag; empty if it was removed.
    pub etag: String,
    /// The number of the change in the log; 0 if it has none.
    pub seq: u64,
}

impl Batch {
    /// Reads a request.
    ///
    /// # Errors
    /// `InvalidArgument` if it has no items or too many, if an item is wrong, or if two have one name.
    pub fn new(request: ApplyRequest) -> Result<Self> {
        let count = request.items.len();
        if count == 0 || count > MAX_ITEMS {
            return Err(Error::invalid_argument(format_args!(
                "ApplyRequest.items has {count} items; 1 to {MAX_ITEMS} are accepted: send several requests"
            )));
        }
        let mut seen: HashMap<String, usize> = HashMap::with_capacity(count);
        let (mut items, mut bytes) = (Vec::with_capacity(count), 0);
        for (number, item) in (1..).zip(request.items) {
            let item = BatchItem::new(item).map_err(|e| e.at(format_args!("item {number}")))?;
            if let Some(first) = seen.insert(item.name.clone(), number) {
                return Err(Error::invalid_argument(format_args!(
                    "item {number} has the name of item {first}, {}: each name may occur once",
                    quote(&item.name)
                )));
            }
            bytes += item.bytes();
            items.push(item);
        }
        check_bytes(bytes)?;
        Ok(Self { items, allow_partial: request.allow_partial, bytes })
    }

    /// The memory of the batch.
    pub fn memory(&self) -> usize {
        let images = self.items.iter().map(|item| match &item.change {
            ItemChange::Put(image) | ItemChange::Update(image, _) => local::image_bytes(image),
            ItemChange::Remove => 0,
        });
        self.bytes + images.sum::<usize>()
    }
}

/// Refuses a batch that is too large.
pub(crate) fn check_bytes(bytes: usize) -> Result<()> {
    if bytes > MAX_BATCH_BYTES {
        return Err(Error::ResourceExhausted(format!(
            "the names and images of the batch, and the images that they replace, have more than \
             {MAX_BATCH_BYTES} bytes: send several requests"
        )));
    }
    Ok(())
}

impl BatchItem {
    fn new(item: ApplyItem) -> Result<Self> {
        let precondition = item.precondition.into_option().map(Precondition::new).transpose()?;
        let (name, change) = match item.change {
            None => return Err(Error::invalid_argument("put or remove must be set")),
            Some(RequestedChange::Remove(remove)) if remove.name.is_empty() => {
                return Err(Error::invalid_argument("Remove.name must be set"));
            }
            Some(RequestedChange::Remove(remove)) => (remove.name, ItemChange::Remove),
            Some(RequestedChange::Put(put)) => put_change(put)?,
        };
        Ok(Self { name, precondition, change })
    }

    fn bytes(&self) -> usize {
        let image = match &self.change {
            ItemChange::Put(image) | ItemChange::Update(image, _) => local::reply_bytes(image),
            ItemChange::Remove => 0,
        };
        self.name.len() + image
    }

    /// Refuses to change `stored`, the encoded image that is there, if the precondition is not met.
    pub fn check(&self, stored: Option<&[u8]>) -> Result<()> {
        let needs_image = matches!(self.change, ItemChange::Update(..) | ItemChange::Remove);
        let name = quote(&self.name);
        match (&self.precondition, stored) {
            (Some(Precondition::Absent), Some(_)) => {
                Err(Error::already_exists(format_args!("image {name}")))
            }
            (Some(Precondition::Absent) | None, None) if needs_image => {
                Err(Error::not_found(format_args!("image {name}")))
            }
            (Some(Precondition::Absent) | None, _) => Ok(()),
            (Some(_), None) => Err(Error::not_found(format_args!("image {name}"))),
            (Some(Precondition::Digest(wanted)), Some(record)) => {
                let found = decode::<Image>(record)?.target.digest.clone();
                (found == *wanted).then_some(()).ok_or_else(|| {
                    Error::failed_precondition(format_args!(
                        "image {name} has target {found}, not {wanted}"
                    ))
                })
            }
            (Some(Precondition::Etag(wanted)), Some(record)) => {
                let found = etag(record);
                (found == *wanted).then_some(()).ok_or_else(|| {
                    Error::failed_precondition(format_args!(
                        "image {name} was changed: its etag is {found}, not {}",
                        quote(wanted)
                    ))
                })
            }
        }
    }
}

fn put_change(put: Put) -> Result<(String, ItemChange)> {
    let mask = put.update_mask.into_option().unwrap_or_default().paths;
    let mut image = put.image;
    if !mask.is_empty()
        && let Some(image) = image.as_mut()
    {
        // An update of labels need not name a target.
        image.target.mut_or_insert_default();
    }
    let image = image::from_request(image, "Put")?;
    if mask.is_empty() {
        image::validate(&image)?;
        return Ok((image.name.clone(), ItemChange::Put(image)));
    }
    Ok((image.name.clone(), ItemChange::Update(image, mask)))
}

impl Precondition {
    fn new(precondition: crate::api::catalog::Precondition) -> Result<Self> {
        match precondition.is {
            Some(Is::Absent(true)) => Ok(Self::Absent),
            Some(Is::Absent(false)) | None => Err(Error::invalid_argument(
                "precondition says nothing: set absent to true, digest or etag, or leave it out",
            )),
            Some(Is::Digest(wanted)) => match digest::validate(&wanted) {
                Ok(()) => Ok(Self::Digest(wanted)),
                Err(why) => Err(Error::invalid_argument(format_args!(
                    "precondition.digest {}: {why}",
                    quote(&wanted)
                ))),
            },
            Some(Is::Etag(wanted)) if wanted.is_empty() => Err(Error::invalid_argument(
                "precondition.etag is empty: send the etag that List or Apply gave, or absent",
            )),
            Some(Is::Etag(wanted)) => Ok(Self::Etag(wanted)),
        }
    }
}

/// Adds to an error which item of a batch it is about.
pub(crate) fn in_item(error: Error, number: usize, name: &str) -> Error {
    let metadata = vec![("item", number.to_string()), ("name", name.to_owned())];
    error.at(format_args!("item {number}")).with_reason("ITEM", metadata)
}

/// The new record of an update.
pub(crate) fn updated(stored: &[u8], change: Image, mask: &[String]) -> Result<Image> {
    let mut image: Image = decode(stored)?;
    image::update(&mut image, &change, mask)?;
    image::validate(&image)?;
    Ok(image)
}

/// The etag of an image that containerd has.
pub(crate) fn etag_of(image: &Image) -> Result<String> {
    Ok(etag(&encode(image)?))
}

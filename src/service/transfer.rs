//! Transfer from image store to image store, which `ctr images tag` of containerd 2.x calls.
//!
//! Every other kind of Transfer moves content, which this daemon does not have.

use go_compat::quote::quote;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use super::events::{Labels, OwnEvent};
use super::{images, import};
use crate::api::images::Image;
use crate::api::imagestore::{ImageReference, ImageStore};
use crate::api::transfer::TransferRequest;
use crate::clock;
use crate::limits::decoded_size;
use crate::model::{Error, Namespace, Result};
use crate::service::codec::decode;
use crate::service::gc::EXPIRE;
use crate::store::{Kind, Records, Transaction};

/// The label that ties an image to another one of its namespace: the collector keeps both, or neither.
pub(crate) const BACK_REFERENCE: &str = "containerd.io/gc.bref.image";

/// The most names of one Transfer: one transaction writes them all, and other writers wait for it.
const MAX_NAMES: usize = 1000;

/// The most bytes of all records that one Transfer reads and writes. One name always fits: it replaces at most
/// the largest record by another one of that size.
const MAX_BYTES: usize = 2 * images::MAX_RECORD_BYTES;

/// New names for the target of an image.
#[derive(Debug, PartialEq)]
pub(crate) struct Tag {
    source: String,
    to: ImageStore,
}

/// The result of a Transfer.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct TagResult {
    names: Vec<RequestedName>,
    /// The time of expiry of all names except the first.
    expires: String,
}

/// A name that the request gives to the image.
#[derive(Debug, PartialEq, Eq, Clone)]
struct RequestedName {
    name: String,
    /// The name is not the first of the request.
    is_extra: bool,
    /// An image with this name existed before.
    was_there: bool,
}

/// The tag that a request asks for.
pub(crate) fn tag(request: &TransferRequest) -> Result<Tag> {
    let (Some(from), Some(to)) = (store(&request.source)?, store(&request.destination)?) else {
        return Err(Error::Unimplemented(format!(
            "a transfer from {} to {} moves content: this socket is lmdb-images, which holds image \
             names only; send it to containerd's own socket",
            kind(&request.source),
            kind(&request.destination)
        )));
    };
    let tag = Tag { source: from.name, to };
    check_count(tag.names("").count())?;
    Ok(tag)
}

fn check_count(count: usize) -> Result<()> {
    if count > MAX_NAMES {
        return Err(Error::ResourceExhausted(format!(
            "the transfer gives {count} names, and at most {MAX_NAMES} are given at once: send the \
             others in another transfer"
        )));
    }
    Ok(())
}

impl Tag {
    /// Writes all names or none. A name that exists gets the new target, as in containerd 2. Names that expire
    /// are added to the `lease` of the call.
    pub(crate) fn apply(
        &self,
        change: &mut Transaction<'_>,
        namespace: &Namespace,
        lease: Option<&str>,
    ) -> Result<TagResult> {
        let missing = || Error::not_found(format_args!("image {}", quote(&self.source)));
        let stored =
            change.record(namespace, Kind::Image, &self.source)?.ok_or_else(missing)?.to_vec();
        let mut target = decode::<Image>(&stored)?.target.unwrap_or_default();
        let names: Vec<_> = match import::take_source(&mut target)? {
            Some(import::Annotated) => {
                check_count(2 * self.to.extra_references.len())?;
                import::names(&self.to.extra_references, &target).map(|name| (name, true)).collect()
            }
            None => self.names(&target.digest).collect(),
        };
        let mut tagged = TagResult { names: Vec::new(), expires: now() };
        let mut left = MAX_BYTES;
        for (name, is_extra) in names {
            if name.is_empty() {
                return Err(Error::invalid_argument("image name must not be empty"));
            }
            let labels = self.labels(is_extra, &tagged.expires);
            let image = Image {
                name: name.clone(),
                labels,
                target: Some(target.clone()).into(),
                ..Image::default()
            };
            let (was_there, bytes) = images::put(change, namespace, lease, image)?;
            left = left.checked_sub(bytes).ok_or_else(|| {
                Error::ResourceExhausted(format!(
                    "the transfer reads and writes more than {MAX_BYTES} bytes of records, and no more \
                     are written at once: give fewer names, or shorter labels"
                ))
            })?;
            tagged.names.push(RequestedName { name, is_extra, was_there });
        }
        if tagged.names.is_empty() {
            return Err(Error::not_found("no image name found"));
        }
        Ok(tagged)
    }

    /// The memory of the request, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        decoded_size::decoded(&self.to, self.to.labels.len() + self.to.extra_references.len())
            + self.source.len()
    }

    /// The events of the names, in order.
    pub(crate) fn events(&self, tagged: TagResult) -> impl Iterator<Item = OwnEvent> {
        let TagResult { names, expires } = tagged;
        names.into_iter().map(move |RequestedName { name, is_extra, was_there }| {
            let mut labels = self.labels(is_extra, &expires);
            labels.retain(|_, value| !value.is_empty());
            if was_there {
                OwnEvent::ImageUpdated { name, labels }
            } else {
                OwnEvent::ImageCreated { name, labels }
            }
        })
    }

    /// The names to write, each with whether it is an extra name, that is, not the first. A reference that is
    /// only a prefix, without a digest, is for images from an archive, and is ignored as in containerd.
    fn names(&self, digest: &str) -> impl Iterator<Item = (String, bool)> {
        let first = Some(self.to.name.clone()).filter(|name| !name.is_empty());
        let is_whole = |reference: &&ImageReference| !reference.is_prefix || reference.add_digest;
        let extra = self.to.extra_references.iter().filter(is_whole);
        let extra = extra.map(move |reference| match reference.add_digest {
            true => format!("{}@{digest}", reference.name),
            false => reference.name.clone(),
        });
        first.into_iter().map(|name| (name, false)).chain(extra.map(|name| (name, true)))
    }

    /// The labels of a name. The collector removes an extra name together with the first one: an extra name has
    /// expired from the beginning, and only its reference to the first name keeps it.
    fn labels(&self, is_extra: bool, expires: &str) -> Labels {
        let mut labels = self.to.labels.clone();
        if is_extra && !self.to.name.is_empty() {
            labels.insert(BACK_REFERENCE.into(), self.to.name.clone());
            labels.insert(EXPIRE.into(), expires.into());
        }
        labels
    }
}

/// The current time in the form of labels, RFC 3339 to the second.
fn now() -> String {
    clock::display_time().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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
    use crate::api::descriptor::Descriptor;
    use crate::store::Store;
    use protobuf::MessageField;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn reference(name: &str, is_prefix: bool, add_digest: bool) -> ImageReference {
        ImageReference { name: name.into(), is_prefix, add_digest, ..ImageReference::default() }
    }

    fn store() -> (tempfile::TempDir, Store, Namespace) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ns = Namespace::parse("n").unwrap();
        (dir, store, ns)
    }

    fn source(annotation: usize) -> Image {
        let mut target = Descriptor {
            media_type: "m".into(),
            digest: DIGEST.into(),
            size: 1,
            ..Descriptor::default()
        };
        target.annotations.insert("a".into(), "x".repeat(annotation));
        Image { name: "s".into(), target: MessageField::some(target), ..Image::default() }
    }

    fn apply(store: &Store, ns: &Namespace, to: ImageStore) -> Result<TagResult> {
        let (tag, ns) = (Tag { source: "s".into(), to }, ns.clone());
        store.writer().write_blocking(move |change| tag.apply(change, &ns, None))
    }

    fn make(store: &Store, ns: &Namespace, image: Image) {
        let ns = ns.clone();
        store.writer().write_blocking(move |c| images::put(c, &ns, None, image)).unwrap();
    }

    fn images_of(store: &Store, ns: &Namespace) -> Vec<Image> {
        let images =
            store.read(|s| s.scan(ns, Kind::Image)?.map(|e| decode(e?.message()?)).collect());
        images.unwrap()
    }

    #[test]
    fn names_are_the_first_and_all_that_are_no_bare_prefixes() {
        let (_dir, store, ns) = store();
        make(&store, &ns, source(1));
        let names = |name: &str, extra_references: Vec<ImageReference>| {
            let to = ImageStore { name: name.into(), extra_references, ..ImageStore::default() };
            apply(&store, &ns, to)
                .map(|tagged| tagged.names.into_iter().map(|given| given.name).collect())
        };
        let references = vec![
            reference("p", true, false),
            reference("b", false, true),
            reference("c", false, false),
            reference("d", true, true),
        ];
        let extra = [format!("b@{DIGEST}"), "c".into(), format!("d@{DIGEST}")];
        let all: Vec<_> = ["a".to_owned()].into_iter().chain(extra.clone()).collect();
        assert_eq!(names("a", references.clone()), Ok(all));
        assert_eq!(names("", references), Ok(extra.into()));
        let none = Error::NotFound("no image name found: not found".into());
        assert_eq!(names("", vec![reference("p", true, false)]), Err(none));
        let unnamed =
            Error::InvalidArgument("image name must not be empty: invalid argument".into());
        assert_eq!(names("z", vec![reference("", false, false)]), Err(unnamed));
        assert!(images_of(&store, &ns).iter().all(|image| image.name != "z"), "all or none");
    }

    #[test]
    fn an_extra_name_is_collected_with_the_first_one_and_a_single_name_stays() {
        let (_dir, store, ns) = store();
        make(&store, &ns, source(1));
        let to = |name: &str, extra: &str| ImageStore {
            name: name.into(),
            labels: [("k".into(), "v".into()), (EXPIRE.into(), "never".into())].into(),
            extra_references: vec![reference(extra, false, false)],
            ..ImageStore::default()
        };
        apply(&store, &ns, to("a", "b")).unwrap();
        apply(&store, &ns, to("", "c")).unwrap();
        let labels = |name: &str| {
            images_of(&store, &ns).into_iter().find(|image| image.name == name).unwrap().labels
        };
        let plain: Labels = [("k".into(), "v".into()), (EXPIRE.into(), "never".into())].into();
        assert_eq!(labels("a"), plain);
        assert_eq!(labels("c"), plain);
        let mut tied = labels("b");
        let expires: jiff::Timestamp = tied.remove(EXPIRE).unwrap().parse().unwrap();
        assert!(expires <= jiff::Timestamp::now());
        assert_eq!(tied.remove(BACK_REFERENCE).as_deref(), Some("a"));
        assert_eq!(tied, [("k".into(), "v".into())].into());
    }

    #[test]
    fn the_names_of_one_transfer_and_their_bytes_are_bounded() {
        let (_dir, store, ns) = store();
        let references = |count: usize| -> Vec<_> {
            (0..count).map(|n| reference(&format!("r{n}"), false, false)).collect()
        };
        let to = |count| ImageStore { extra_references: references(count), ..Default::default() };
        let any = |store: ImageStore| {
            MessageField::some(Any {
                type_url: "containerd.types.transfer.ImageStore".into(),
                value: store.write_to_bytes().unwrap(),
                ..Any::default()
            })
        };
        let request = |count| TransferRequest {
            source: any(ImageStore::default()),
            destination: any(to(count)),
            ..Default::default()
        };
        assert!(tag(&request(MAX_NAMES)).is_ok());
        let error = tag(&request(MAX_NAMES + 1)).unwrap_err();
        assert!(error.message().contains("gives 1001 names, and at most 1000"), "{error}");
        make(&store, &ns, source(3 << 20));
        assert_eq!(apply(&store, &ns, to(10)).unwrap().names.len(), 10);
        let error = apply(&store, &ns, to(11)).unwrap_err();
        assert!(matches!(&error, Error::ResourceExhausted(m) if m.contains("more than 33554422")));
        assert_eq!(images_of(&store, &ns).len(), 11);
    }

    #[test]
    fn a_record_that_no_reply_can_carry_is_refused() {
        let (_dir, store, ns) = store();
        let base = images::record(&source(0)).unwrap().len();
        make(&store, &ns, source(images::MAX_RECORD_BYTES - base - 100));
        let to = ImageStore {
            name: "a".into(),
            labels: [("k".into(), "v".repeat(4000))].into(),
            ..ImageStore::default()
        };
        let error = apply(&store, &ns, to).unwrap_err();
        assert!(
            matches!(&error, Error::ResourceExhausted(m) if m.contains("image \"a\" would be a record of")
                && m.contains("at most 16777211 are stored")),
            "{error:?}"
        );
        assert_eq!(images_of(&store, &ns).len(), 1);
    }

    #[test]
    fn the_labels_of_many_updates_are_bounded() {
        let mut image = source(1);
        image.labels = (0..60_000).map(|n| (n.to_string(), "v".into())).collect();
        assert!(images::record(&image).is_ok());
        image.labels = (0..66_000).map(|n| (n.to_string(), "v".into())).collect();
        let error = images::record(&image).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::ResourceExhausted(m) if m.contains("image \"s\" cannot be stored")),
            "{error:?}"
        );
    }
}

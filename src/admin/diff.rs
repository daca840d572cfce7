//! `lmdb-images diff`: compares the store with a running containerd.
//!
//! The command changes nothing, and the daemon may keep running. Records may change during the
//! comparison, so the command reads each differing image again on both sides before it reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::containerd::{await_reply, still_answers};
use crate::api::images::Image;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};
use crate::service::codec::{decode, encode};
use crate::store::{Kind, ReadOnlyStore, Records};

/// Kind of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DifferenceKind {
    /// Only the store has the image.
    OnlyHere,
    /// Only containerd has the image.
    OnlyInContainerd,
    /// Both have the image, but these fields differ. Each is a field name of the JSON form; labels and
    /// annotations carry their key.
    Fields(Vec<String>),
    /// The record in the store is damaged.
    Damaged,
    /// The image could not be compared, for this reason.
    Failed(String),
}

/// An image that differs between the store and containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Namespace of the image.
    pub(crate) namespace: String,
    /// Name of the image.
    pub(crate) name: String,
    /// Kind of the difference.
    pub(crate) kind: DifferenceKind,
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyHere => f.write_str("only in LMDB"),
            Self::OnlyInContainerd => f.write_str("only in containerd"),
            Self::Fields(fields) => write!(f, "not the same: {}", fields.join(", ")),
            Self::Damaged => f.write_str("damaged in LMDB"),
            Self::Failed(why) => write!(f, "not compared: {why}"),
        }
    }
}

impl Difference {
    /// The difference as a line of JSON.
    pub(crate) fn json(&self) -> String {
        let kind = match &self.kind {
            DifferenceKind::OnlyHere => "only-in-lmdb",
            DifferenceKind::OnlyInContainerd => "only-in-containerd",
            DifferenceKind::Fields(_) => "not-the-same",
            DifferenceKind::Damaged => "damaged",
            DifferenceKind::Failed(_) => "not-compared",
        };
        #[derive(Serialize)]
        struct Line<'d> {
            namespace: &'d str,
            name: &'d str,
            difference: &'d str,
            #[serde(skip_serializing_if = "Option::is_none")]
            fields: Option<&'d [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'d str>,
        }
        let (fields, detail) = match &self.kind {
            DifferenceKind::Fields(fields) => (Some(fields.as_slice()), None),
            DifferenceKind::Failed(why) => (None, Some(why.as_str())),
            _ => (None, None),
        };
        let (namespace, name) = (self.namespace.as_str(), self.name.as_str());
        let line = Line { namespace, name, difference: kind, fields, detail };
        // Serializing strings cannot fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// Result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The differences, ordered by namespace and name.
    pub(crate) differences: Vec<Difference>,
    /// Number of images set aside in the store: images that containerd no longer had after a gap in
    /// its events.
    pub(crate) set_aside: u64,
}

/// Compares the store in `root` with the containerd at `socket`.
///
/// # Errors
/// If the store cannot be read or containerd stops answering. A fault of a single image is a
/// [`Difference`].
pub(crate) async fn run(root: &Path, socket: &Path) -> Result<Comparison> {
    let store = ReadOnlyStore::open(root)?;
    let containerd = GrpcClient::connect(socket).await?;
    let mut namespaces: BTreeSet<_> = store.read(|s| s.namespaces())?.into_iter().collect();
    for record in await_reply(&containerd, containerd.namespaces()).await? {
        namespaces.insert(Namespace::parse(&record.name)?);
    }
    let mut differences = Vec::new();
    for namespace in &namespaces {
        for name in suspects(&store, &containerd, namespace).await? {
            let kind = match compare_image(&store, &containerd, namespace, &name).await {
                Err(Error::DataLoss(_)) => Some(DifferenceKind::Damaged),
                Err(e) if still_answers(&containerd).await => {
                    Some(DifferenceKind::Failed(e.message().into()))
                }
                compared => compared?,
            };
            differences.extend(kind.map(|kind| Difference {
                namespace: namespace.to_string(),
                name,
                kind,
            }));
        }
    }
    Ok(Comparison { differences, set_aside: store.read(|s| s.count_set_aside())? })
}

/// Returns the names whose records differ between the two lists.
async fn suspects(
    store: &ReadOnlyStore,
    containerd: &GrpcClient,
    namespace: &Namespace,
) -> Result<BTreeSet<String>> {
    let mut theirs = BTreeMap::new();
    let mut listing = containerd.images(namespace);
    while let Some(images) = await_reply(containerd, listing.next()).await? {
        for found in images {
            let found = image::normalize_record(found);
            theirs.insert(found.name.clone(), encode(&found)?);
        }
    }
    store.read(|snapshot| {
        let mut names = BTreeSet::new();
        for entry in snapshot.scan(namespace, Kind::Image)? {
            let entry = entry?;
            let message = match entry.message() {
                Ok(message) => message,
                Err(_) => {
                    names.insert(entry.display_name());
                    continue;
                }
            };
            let name = decode::<Image>(message)?.name;
            if theirs.remove(&name).as_deref() != Some(message) {
                names.insert(name);
            }
        }
        names.extend(theirs.into_keys());
        Ok(names)
    })
}

/// Compares one image, read anew on both sides; `None` if both are equal.
async fn compare_image(
    store: &ReadOnlyStore,
    containerd: &GrpcClient,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<DifferenceKind>> {
    let ours = store.read(|s| Ok(s.record(namespace, Kind::Image, name)?.map(<[u8]>::to_vec)))?;
    let theirs = await_reply(containerd, containerd.image(namespace, name)).await?;
    let theirs = theirs.map(image::normalize_record);
    Ok(match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == encode(&theirs)? => None,
        (Some(ours), Some(theirs)) => {
            Some(DifferenceKind::Fields(differing_fields(&decode(&ours)?, &theirs)))
        }
        (Some(_), None) => Some(DifferenceKind::OnlyHere),
        (None, Some(_)) => Some(DifferenceKind::OnlyInContainerd),
        (None, None) => None,
    })
}

/// Returns the names of the fields in which two records differ.
pub(super) fn differing_fields(ours: &Image, theirs: &Image) -> Vec<String> {
    let (a, b) = (&ours.target, &theirs.target);
    let mut fields = Vec::new();
    for (field, differs) in [
        ("target.mediaType", a.media_type != b.media_type),
        ("target.digest", a.digest != b.digest),
        ("target.size", a.size != b.size),
    ] {
        fields.extend(differs.then(|| field.to_owned()));
    }
    fields.extend(differing_keys(&a.annotations, &b.annotations, "target.annotations"));
    fields.extend(differing_keys(&ours.labels, &theirs.labels, "labels"));
    for (field, differs) in [
        ("createdAt", ours.created_at != theirs.created_at),
        ("updatedAt", ours.updated_at != theirs.updated_at),
    ] {
        fields.extend(differs.then(|| field.to_owned()));
    }
    if fields.is_empty() {
        fields.push("fields unknown to this version".into());
    }
    fields
}

/// Returns the keys of a map field whose values differ, as `field.key`.
fn differing_keys(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
    field: &str,
) -> Vec<String> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differing = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    differing.map(|key| format!("{field}.{key}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::descriptor::Descriptor;

    #[test]
    fn each_field_that_differs_is_named() {
        let with = |size, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let target = Some(Descriptor { size, ..Descriptor::default() }).into();
            Image { target, labels, ..Image::default() }
        };
        let ours = with(1, &[("a", "1"), ("b", "1"), ("c", "1")]);
        let theirs = with(2, &[("a", "1"), ("b", "2"), ("d", "1")]);
        let expected = ["target.size", "labels.b", "labels.c", "labels.d"];
        assert_eq!(differing_fields(&ours, &theirs), expected);
        let kind = DifferenceKind::Fields(differing_fields(&ours, &with(1, &[])));
        assert_eq!(kind.to_string(), "not the same: labels.a, labels.b, labels.c");
        let difference = Difference { namespace: "n".into(), name: "x".into(), kind };
        let json: serde_json::Value = serde_json::from_str(&difference.json()).unwrap();
        assert_eq!(json["fields"][2], "labels.c");
    }
}

//! `lmdb-images diff`: what differs between the store and a running containerd.
//!
//! It reads beside the daemon and changes nothing. What looks different is looked at again on both
//! sides before it is said: things move while one looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::containerd::{answer, is_there};
use crate::api::images::Image;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};
use crate::service::codec::{decode, encode};
use crate::store::{Kind, ReadOnlyStore, Records};

/// How an image differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// containerd does not have it.
    OnlyHere,
    /// The store does not have it.
    OnlyInContainerd,
    /// Both have it, and these fields are not the same: by their names in JSON, of labels and annotations
    /// with the key.
    Fields(Vec<String>),
    /// Its record in the store is damaged.
    Damaged,
    /// It could not be looked at, for this reason.
    Failed(String),
}

/// An image that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What is different.
    pub how: How,
}

impl fmt::Display for How {
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
    pub fn json(&self) -> String {
        let how = match &self.how {
            How::OnlyHere => "only-in-lmdb",
            How::OnlyInContainerd => "only-in-containerd",
            How::Fields(_) => "not-the-same",
            How::Damaged => "damaged",
            How::Failed(_) => "not-compared",
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
        let (fields, detail) = match &self.how {
            How::Fields(fields) => (Some(fields.as_slice()), None),
            How::Failed(why) => (None, Some(why.as_str())),
            _ => (None, None),
        };
        let (namespace, name) = (self.namespace.as_str(), self.name.as_str());
        let line = Line { namespace, name, difference: how, fields, detail };
        // Texts can be written always.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The differences, by namespace and name.
    pub differences: Vec<Difference>,
    /// How many images are set aside in the store: containerd no longer had them after a gap.
    pub aside: u64,
}

/// Compares the store in `root` with the containerd behind `socket`.
pub async fn run(root: &Path, socket: &Path) -> Result<Found> {
    let store = ReadOnlyStore::open(root)?;
    let containerd = GrpcClient::connect(socket).await?;
    let mut namespaces: BTreeSet<_> = store.read(|s| s.namespaces())?.into_iter().collect();
    for record in answer(&containerd, containerd.namespaces()).await? {
        namespaces.insert(Namespace::parse(&record.name)?);
    }
    let mut differences = Vec::new();
    for namespace in &namespaces {
        for name in suspects(&store, &containerd, namespace).await? {
            let how = match look(&store, &containerd, namespace, &name).await {
                Err(Error::DataLoss(_)) => Some(How::Damaged),
                Err(e) if is_there(&containerd).await => Some(How::Failed(e.message().into())),
                looked => looked?,
            };
            differences.extend(how.map(|how| Difference {
                namespace: namespace.to_string(),
                name,
                how,
            }));
        }
    }
    Ok(Found { differences, aside: store.read(|s| s.count_set_aside())? })
}

/// The names whose records look different in the lists of both.
async fn suspects(
    store: &ReadOnlyStore,
    containerd: &GrpcClient,
    namespace: &Namespace,
) -> Result<BTreeSet<String>> {
    let mut theirs = BTreeMap::new();
    let mut listing = containerd.images(namespace);
    while let Some(images) = answer(containerd, listing.next()).await? {
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

/// Looks at one image on both sides.
async fn look(
    store: &ReadOnlyStore,
    containerd: &GrpcClient,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<How>> {
    let ours = store.read(|s| Ok(s.record(namespace, Kind::Image, name)?.map(<[u8]>::to_vec)))?;
    let theirs = answer(containerd, containerd.image(namespace, name)).await?;
    let theirs = theirs.map(image::normalize_record);
    Ok(match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == encode(&theirs)? => None,
        (Some(ours), Some(theirs)) => Some(How::Fields(fields(&decode(&ours)?, &theirs))),
        (Some(_), None) => Some(How::OnlyHere),
        (None, Some(_)) => Some(How::OnlyInContainerd),
        (None, None) => None,
    })
}

/// The fields in which two records differ.
fn fields(ours: &Image, theirs: &Image) -> Vec<String> {
    let (a, b) = (&ours.target, &theirs.target);
    let mut fields = Vec::new();
    for (field, differs) in [
        ("target.mediaType", a.media_type != b.media_type),
        ("target.digest", a.digest != b.digest),
        ("target.size", a.size != b.size),
    ] {
        fields.extend(differs.then(|| field.to_owned()));
    }
    fields.extend(keys(&a.annotations, &b.annotations, "target.annotations"));
    fields.extend(keys(&ours.labels, &theirs.labels, "labels"));
    for (field, differs) in [
        ("createdAt", ours.created_at != theirs.created_at),
        ("updatedAt", ours.updated_at != theirs.updated_at),
    ] {
        fields.extend(differs.then(|| field.to_owned()));
    }
    if fields.is_empty() {
        fields.push("fields that are not known here".into());
    }
    fields
}

/// The keys whose values differ, each behind the name of the field.
fn keys(
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
        assert_eq!(fields(&ours, &theirs), expected);
        let how = How::Fields(fields(&ours, &with(1, &[])));
        assert_eq!(how.to_string(), "not the same: labels.a, labels.b, labels.c");
        let difference = Difference { namespace: "n".into(), name: "x".into(), how };
        let json: serde_json::Value = serde_json::from_str(&difference.json()).unwrap();
        assert_eq!(json["fields"][2], "labels.c");
    }
}

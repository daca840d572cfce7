//! `lmdb-images diff`: what differs between the store and a running containerd.
//!
//! It reads beside the daemon and changes nothing. What looks different is looked at again on both
//! sides before it is said: things move while one looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::api::images::Image;
use crate::front::client::Containerd;
use crate::model::{Namespace, Result, image};
use crate::service::message::{decode, encode};
use crate::store::{Kind, Reader, Records};

/// How an image differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// containerd does not have it.
    OnlyHere,
    /// The store does not have it.
    OnlyInContainerd,
    /// Both have it, with other content.
    Other,
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
        f.write_str(match self {
            Self::OnlyHere => "only in LMDB",
            Self::OnlyInContainerd => "only in containerd",
            Self::Other => "not the same",
        })
    }
}

impl Difference {
    /// The difference as a line of JSON.
    pub fn json(&self) -> String {
        let how = match self.how {
            How::OnlyHere => "only-in-lmdb",
            How::OnlyInContainerd => "only-in-containerd",
            How::Other => "not-the-same",
        };
        let text = |text: &str| serde_json::Value::from(text);
        let (namespace, name) = (text(&self.namespace), text(&self.name));
        format!("{{\"namespace\":{namespace},\"name\":{name},\"difference\":\"{how}\"}}")
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
    let store = Reader::open(root)?;
    let containerd = Containerd::connect(socket).await?;
    let mut namespaces: BTreeSet<_> = store.read(|s| s.namespaces())?.into_iter().collect();
    for record in containerd.namespaces().await? {
        namespaces.insert(Namespace::parse(&record.name)?);
    }
    let mut differences = Vec::new();
    for namespace in &namespaces {
        for name in suspects(&store, &containerd, namespace).await? {
            let how = look(&store, &containerd, namespace, &name).await?;
            differences.extend(how.map(|how| Difference {
                namespace: namespace.to_string(),
                name,
                how,
            }));
        }
    }
    Ok(Found { differences, aside: store.read(|s| s.aside())? })
}

/// The names whose records look different in the lists of both.
async fn suspects(
    store: &Reader,
    containerd: &Containerd,
    namespace: &Namespace,
) -> Result<BTreeSet<String>> {
    let mut theirs = BTreeMap::new();
    let mut listing = containerd.images(namespace);
    while let Some(images) = listing.next().await? {
        for found in images {
            let found = image::from_record(found);
            theirs.insert(found.name.clone(), encode(&found)?);
        }
    }
    store.read(|snapshot| {
        let mut names = BTreeSet::new();
        for entry in snapshot.walk(namespace, Kind::Image)? {
            let message = entry?.message()?;
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
    store: &Reader,
    containerd: &Containerd,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<How>> {
    let theirs = containerd.image(namespace, name).await?;
    let theirs = theirs.map(|found| encode(&image::from_record(found))).transpose()?;
    let ours = store.read(|s| Ok(s.record(namespace, Kind::Image, name)?.map(<[u8]>::to_vec)))?;
    Ok(match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours != theirs).then_some(How::Other),
        (Some(_), None) => Some(How::OnlyHere),
        (None, Some(_)) => Some(How::OnlyInContainerd),
        (None, None) => None,
    })
}

//! The names to bring back: the records of a store, with those that it has set aside.

use std::collections::BTreeMap;
use std::path::Path;

use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::model::{Error, Namespace, Result};
use crate::service::codec::decode;
use crate::store::{Kind, ReadOnlyStore, Records};

/// An image to bring back.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedImage {
    /// Its record.
    pub image: Image,
    /// Whether the store has set it aside.
    pub aside: bool,
}

/// What a namespace should have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WantedNamespace {
    /// Its labels; `None` if the store no longer has them, or has them damaged.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its images, ordered by name.
    pub images: Vec<WantedImage>,
    /// Names of which the record is damaged, as far as they are known.
    pub damaged: Vec<String>,
}

/// What a containerd should have.
pub type Wanted = BTreeMap<Namespace, WantedNamespace>;

/// Reads what the store in `root` has. A daemon that serves it may be running.
pub fn from_store(root: &Path) -> Result<Wanted> {
    let store = ReadOnlyStore::open(root)?;
    store.read(|snapshot| {
        let mut wanted = Wanted::new();
        for namespace in snapshot.namespaces()? {
            let labels = match snapshot.namespace(&namespace) {
                Ok(record) => record.map(decode::<Record>).transpose()?.map(|record| record.labels),
                Err(Error::DataLoss(_)) => None,
                Err(e) => return Err(e),
            };
            let mut found = WantedNamespace { labels, ..WantedNamespace::default() };
            for entry in snapshot.scan(&namespace, Kind::Image)? {
                let entry = entry?;
                match entry.message().and_then(decode::<Image>) {
                    Ok(image) => found.images.push(WantedImage { image, aside: false }),
                    Err(_) => found.damaged.push(entry.display_name()),
                }
            }
            wanted.insert(namespace, found);
        }
        snapshot.for_each_aside(&mut |namespace, entry| {
            let found = wanted.entry(namespace.clone()).or_default();
            match entry.message().and_then(decode::<Image>) {
                Ok(image) => found.images.push(WantedImage { image, aside: true }),
                Err(_) => found.damaged.push(entry.display_name()),
            }
            Ok(())
        })?;
        Ok(wanted)
    })
}

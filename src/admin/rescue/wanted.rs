//! The names to bring back: the records of a store, with its set-aside records.

use std::collections::BTreeMap;
use std::path::Path;

use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::model::{Error, Namespace, Result};
use crate::service::codec::decode;
use crate::store::{Kind, ReadOnlyStore, Records};

/// An image to bring back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WantedImage {
    /// The record.
    pub(crate) image: Image,
    /// Whether the store has set it aside.
    pub(crate) is_set_aside: bool,
}

/// The labels and images that a namespace should have.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WantedNamespace {
    /// The labels; `None` if the store lacks them or has them damaged.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// The images, ordered by name.
    pub(crate) images: Vec<WantedImage>,
    /// The known names whose record is damaged.
    pub(crate) damaged: Vec<String>,
}

/// The namespaces that a containerd should have.
pub(crate) type Wanted = BTreeMap<Namespace, WantedNamespace>;

/// Reads the records of the store in `root`. A daemon may be serving it.
pub(crate) fn from_store(root: &Path) -> Result<Wanted> {
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
                    Ok(image) => found.images.push(WantedImage { image, is_set_aside: false }),
                    Err(_) => found.damaged.push(entry.display_name()),
                }
            }
            wanted.insert(namespace, found);
        }
        snapshot.for_each_aside(&mut |namespace, entry| {
            let found = wanted.entry(namespace.clone()).or_default();
            match entry.message().and_then(decode::<Image>) {
                // A record is newer than a set-aside record of the same name.
                Ok(image) if snapshot.record(namespace, Kind::Image, &image.name)?.is_some() => {}
                Ok(image) => found.images.push(WantedImage { image, is_set_aside: true }),
                Err(_) => found.damaged.push(entry.display_name()),
            }
            Ok(())
        })?;
        for namespace in wanted.values_mut() {
            namespace.images.sort_by(|a, b| a.image.name.cmp(&b.image.name));
        }
        Ok(wanted)
    })
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::*;
    use crate::store::{Store, Transaction};

    #[test]
    fn a_record_and_its_copy_that_is_set_aside_are_wanted_once() {
        let dir = tempfile::tempdir().unwrap();
        let namespace = Namespace::parse("n").unwrap();
        let image = |name: &str, digest: &str| {
            let mut image = Image { name: name.into(), ..Image::default() };
            image.target.mut_or_insert_default().digest = digest.into();
            image
        };
        let store = Store::open(dir.path()).unwrap();
        let (ns, labels) = (namespace.clone(), BTreeMap::from([("team".into(), "a".into())]));
        let record = Record { name: "n".into(), labels: labels.clone(), ..Record::default() };
        let put = move |change: &mut Transaction<'_>, image: &Image| {
            let message = image.write_to_bytes().unwrap();
            change.put(&ns, Kind::Image, &image.name, &message, None)
        };
        let ns = namespace.clone();
        store
            .writer()
            .write_blocking(move |change: &mut Transaction<'_>| {
                change.put_namespace(&ns, &record.write_to_bytes().unwrap())?;
                for (name, digest) in [("b", "old"), ("c", "aside"), ("a", "kept")] {
                    put(change, &image(name, digest))?;
                }
                change.set_aside(&ns, Kind::Image, "b")?;
                change.set_aside(&ns, Kind::Image, "c")?;
                put(change, &image("b", "new"))
            })
            .unwrap();
        drop(store);
        let wanted = from_store(dir.path()).unwrap();
        let found = &wanted[&namespace];
        assert_eq!(found.labels, Some(labels));
        let images: Vec<_> = found
            .images
            .iter()
            .map(|w| (w.image.name.as_str(), w.image.target.digest.as_str(), w.is_set_aside))
            .collect();
        assert_eq!(images, [("a", "kept", false), ("b", "new", false), ("c", "aside", true)]);
    }
}

//! Reading records of one state of the store.
//!
//! A [`Snapshot`] reads a committed state; a [`Transaction`](crate::store::engine::transaction::Transaction)
//! reads its own writes too. [`Records`] has the reads of both. A read returns the encoded message of a
//! record after checking its checksum; the caller decodes it. [`scan`] iterates over records in order.

use crate::store::schema::keys;
use std::collections::BTreeMap;

use go_compat::quote::quote;

use crate::model::image::plan::QueryPlan;
use crate::model::{Namespace, Result};
use crate::store::read::count;
use crate::store::read::lookup;
use crate::store::read::scan;
use crate::store::read::scan::{Expiring, RecordKey};
use crate::store::read::scan::{RecordRef, Scan};
use crate::store::read::state::{ReadState, get};
use crate::store::read::view::{Revision, View};
use crate::store::schema::keys::Kind;
use crate::store::schema::table::Table;

/// A snapshot of the store.
pub struct Snapshot<'e> {
    pub(crate) view: View<'e>,
}

impl ReadState for Snapshot<'_> {
    fn view(&self) -> &View<'_> {
        &self.view
    }
}

impl Records for Snapshot<'_> {}

/// The reads of a state.
pub trait Records: ReadState {
    /// The state that this is.
    fn revision(&self) -> Revision {
        self.view().revision()
    }

    /// Returns an error if checkpoints have written too much since the snapshot began. Scans call this
    /// themselves; a caller that works long on one record calls it meanwhile.
    fn check_held(&self) -> Result<()> {
        self.view().check_held()
    }

    /// The encoded record `name`.
    ///
    /// # Errors
    /// `DataLoss` if the record is damaged.
    fn record(&self, namespace: &Namespace, kind: Kind, name: &str) -> Result<Option<&[u8]>> {
        get(self, &keys::key(namespace, kind, name)).map_err(|fault| {
            fault.into_error(|| format!("{} {} in namespace {namespace}", kind.noun(), quote(name)))
        })
    }

    /// The encoded `Namespace` of that name; an error when it is damaged.
    fn namespace(&self, namespace: &Namespace) -> Result<Option<&[u8]>> {
        get(self, &keys::namespace_key(namespace))
            .map_err(|fault| fault.into_error(|| format!("namespace {namespace}")))
    }

    /// Looks for the first record, whichever it is: an error when LMDB cannot be read.
    fn probe(&self) -> Result<()> {
        self.view().seek(Table::Records, b"").map(drop)
    }

    /// The records of a kind in a namespace, in byte order of their names.
    fn scan(&self, namespace: &Namespace, kind: Kind) -> Result<Scan<'_>> {
        Scan::new(self, namespace, kind, b"")
    }

    /// The images in a namespace whose names have that prefix, in byte order of names. A prefix that is
    /// longer than the head of a long name may return other images too.
    fn scan_names(&self, namespace: &Namespace, beginning: &[u8]) -> Result<Scan<'_>> {
        Scan::new(self, namespace, Kind::Image, beginning)
    }

    /// The images in a namespace whose names begin with `beginning`, behind the one at `position`
    /// ([`RecordRef::position`]), in the order of their positions. That is the order of their names, except for long names.
    fn images_after(
        &self,
        namespace: &Namespace,
        beginning: &[u8],
        position: &[u8],
    ) -> Result<impl Iterator<Item = Result<RecordRef<'_>>>> {
        scan::images_after(self, namespace, beginning, position)
    }

    /// Candidates that include every image that matches the filter of `plan`, in byte order of names; `None` if
    /// there are more than `limit`. The search calls `step` regularly; an error of `step` ends the search.
    fn candidates(
        &self,
        namespace: &Namespace,
        plan: &QueryPlan,
        limit: usize,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<Vec<RecordRef<'_>>>> {
        lookup::candidates(self, namespace, plan, limit, step)
    }

    /// The approximate number of records of all kinds in all namespaces: writes in the overlay may be
    /// counted wrong.
    fn approximate_count(&self) -> Result<u64> {
        self.view().approximate_len(Table::Records)
    }

    /// The number of images in a namespace, if it can be had without reading them.
    fn count_images(&self, namespace: &Namespace) -> Result<Option<u64>> {
        count::count_images(self, namespace)
    }

    /// The names of all namespaces, in byte order.
    fn namespaces(&self) -> Result<Vec<Namespace>> {
        scan::namespaces(self).collect()
    }

    /// An iterator over the names of all namespaces.
    fn walk_namespaces(&self) -> impl Iterator<Item = Result<Namespace>> {
        scan::namespaces(self)
    }

    /// The number of set-aside images.
    fn count_set_aside(&self) -> Result<u64> {
        self.view().len(Table::SetAside)
    }

    /// The number of set-aside images by namespace.
    fn aside_by_namespace(&self) -> Result<BTreeMap<String, u64>> {
        scan::aside_by_namespace(self)
    }

    /// The keys from `from` on of the records that have a time from which on they may be collected,
    /// whether it has come or not, with the values of their labels.
    fn expiring_keys(
        &self,
        from: &RecordKey,
    ) -> Result<impl Iterator<Item = Result<(RecordKey, String)>>> {
        scan::expiring_keys(self, from)
    }

    /// The keys of a namespace's images that have a time of expiry, with the values of their labels.
    fn expiring_images(
        &self,
        namespace: &Namespace,
    ) -> Result<impl Iterator<Item = Result<(RecordKey, String)>>> {
        scan::expiring_images(self, namespace)
    }

    /// The encoded record under a key; an error when it is damaged.
    fn record_at(&self, key: &RecordKey) -> Result<Option<&[u8]>> {
        get(self, &key.0).map_err(|fault| fault.into_error(|| format!("key {key}")))
    }

    /// The record under a key, if it exists and has an expiry time.
    fn expiring(&self, key: &RecordKey) -> Result<Option<Expiring>> {
        scan::expiring(self, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::Image;
    use crate::store::schema::keys::NAME_PREFIX_BYTES;
    use crate::store::{Store, Transaction};
    use protobuf::Message;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn namespace(name: &str) -> Namespace {
        Namespace::parse(name).unwrap()
    }

    fn put(store: &Store, ns: &Namespace, name: &str) {
        let message = Image { name: name.into(), ..Image::default() }.write_to_bytes().unwrap();
        let (ns, name) = (ns.clone(), name.to_owned());
        store
            .writer()
            .write_blocking(move |c| c.put(&ns, Kind::Image, &name, &message, None))
            .unwrap();
    }

    fn listed(store: &Store, ns: &Namespace) -> Vec<String> {
        let names = store.read(|s| {
            s.scan(ns, Kind::Image)?
                .map(|e| Ok(Image::parse_from_bytes(e?.message()?).unwrap().name))
                .collect()
        });
        names.unwrap()
    }

    #[test]
    fn names_of_any_length_list_in_byte_order() {
        let (_dir, store) = store();
        let (before, ns, after) = (namespace("a"), namespace("a.b"), namespace("a0"));
        let head = "h".repeat(NAME_PREFIX_BYTES);
        let cut_inside_a_character = format!("{}ü", "h".repeat(NAME_PREFIX_BYTES - 1));
        let mut names: Vec<String> =
            ["", "/", "x", "xyz", "~", "é", "\u{10ffff}", &head, &cut_inside_a_character]
                .iter()
                .flat_map(|stem| ["", "z", "a", "\0", "é"].map(|end| format!("{stem}{end}")))
                .chain((0..40).map(|i| format!("{head}/{i}")))
                .chain([
                    format!("{head}{}", "a".repeat(40_000)),
                    format!("{}i", "h".repeat(NAME_PREFIX_BYTES - 1)),
                ])
                .filter(|name| !name.is_empty())
                .collect();
        for name in &names {
            put(&store, &ns, name);
        }
        put(&store, &before, "x");
        put(&store, &after, "x");
        names.sort();
        names.dedup();
        assert_eq!(listed(&store, &ns), names);
        for name in &names {
            assert!(
                store.read(|s| Ok(s.record(&ns, Kind::Image, name)?.is_some())).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_long_name_is_found_only_by_all_of_itself() {
        let (_dir, store) = store();
        let ns = namespace("n");
        let long = "x".repeat(1000);
        put(&store, &ns, &long);
        assert!(store.read(|s| Ok(s.record(&ns, Kind::Image, &long[1..])?.is_none())).unwrap());
        let doomed = (ns.clone(), long.clone());
        assert_eq!(
            store.writer().write_blocking(move |c| c.delete(&doomed.0, Kind::Image, &doomed.1)),
            Ok(true)
        );
        assert!(listed(&store, &ns).is_empty());
    }

    #[test]
    fn namespaces_are_found_between_their_records() {
        let (_dir, store) = store();
        let names = ["a", "a-b", "a.b", "a0", "b", "z"];
        for name in names {
            let ns = namespace(name);
            put(&store, &ns, "i1");
            put(&store, &ns, "i2");
            store.writer().write_blocking(move |c| c.put_namespace(&ns, b"")).unwrap();
        }
        let found = store.read(|s| s.namespaces()).unwrap();
        assert_eq!(found.iter().map(Namespace::as_str).collect::<Vec<_>>(), names);
    }

    #[test]
    fn a_damaged_record_is_named_and_the_others_are_listed() {
        let (_dir, store) = store();
        let ns = namespace("n");
        for name in ["a", "b", "c"] {
            put(&store, &ns, name);
        }
        let damage = ns.clone();
        let bad = move |c: &mut Transaction<'_>| {
            c.set(Table::Records, &keys::key(&damage, Kind::Image, "b"), b"rotten")
        };
        store.writer().write_blocking(bad).unwrap();
        let got = store.read(|s| s.record(&ns, Kind::Image, "b").map(drop)).unwrap_err();
        assert!(
            matches!(&got, crate::model::Error::DataLoss(m) if m.contains("image \"b\" in namespace n")),
            "{got}"
        );
        let whole = store
            .read(|s| {
                Ok(s.scan(&ns, Kind::Image)?
                    .filter(|e| e.as_ref().unwrap().message().is_ok())
                    .count())
            })
            .unwrap();
        assert_eq!(whole, 2);
    }

    #[test]
    fn an_expiring_record_is_listed_as_long_as_it_exists() {
        let (_dir, store) = store();
        let ns = namespace("n");
        let long = "x".repeat(1000);
        for (name, expires) in [("a", Some("soon")), ("b", None), (&long, Some("later"))] {
            let message = Image { name: name.into(), ..Image::default() }.write_to_bytes().unwrap();
            let (ns, name) = (ns.clone(), name.to_owned());
            let put =
                move |c: &mut Transaction<'_>| c.put(&ns, Kind::Image, &name, &message, expires);
            store.writer().write_blocking(put).unwrap();
        }
        let expiring = || {
            let all = |s: &Snapshot<'_>| {
                let keys = s.expiring_keys(&RecordKey::first())?.collect::<Result<Vec<_>>>()?;
                keys.iter()
                    .map(|(key, _)| Ok(s.expiring(key)?.unwrap()))
                    .collect::<Result<Vec<_>>>()
            };
            store.read(all).unwrap()
        };
        let expires = |name: &str, when: &str| Expiring {
            namespace: ns.clone(),
            kind: Kind::Image,
            name: name.into(),
            when: when.into(),
        };
        assert_eq!(expiring(), [expires("a", "soon"), expires(&long, "later")]);
        put(&store, &ns, "a");
        let doomed = (ns.clone(), long.clone());
        store
            .writer()
            .write_blocking(move |c| c.delete(&doomed.0, Kind::Image, &doomed.1))
            .unwrap();
        assert_eq!(expiring(), []);
    }

    #[test]
    fn deleting_a_namespace_deletes_its_leases() {
        let (_dir, store) = store();
        let (ns, other) = (namespace("n"), namespace("o"));
        for ns in [ns.clone(), other.clone()] {
            let work = move |c: &mut Transaction<'_>| {
                c.put_namespace(&ns, b"")?;
                c.put(&ns, Kind::Lease, "l", b"", Some("soon"))
            };
            store.writer().write_blocking(work).unwrap();
        }
        store.writer().write_blocking(move |c| c.delete_namespace(&ns)).unwrap();
        let left = store
            .read(|s| Ok((s.namespaces()?, s.expiring_keys(&RecordKey::first())?.count())))
            .unwrap();
        assert_eq!(left, (vec![other], 1));
    }
}

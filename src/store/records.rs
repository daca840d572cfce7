//! Records inside a transaction: looking them up and changing them.
//!
//! [`Snapshot`] reads one state; [`Change`] reads its own writes too. Both are used through
//! [`Records`]. Records are handed out as the bytes of their message, already checked against
//! their checksum; decoding is the caller's. `walk` goes through them in order.

use std::collections::{BTreeMap, BTreeSet};

use heed::{RoTxn, RwTxn, WithoutTls};

use super::schema::{self, Kind, Tables};
use super::walk::{self, Entry, Walk};
use super::{failure, indexes, search, value};
use crate::model::go::quote::quote;
use crate::model::image::plan::Plan;
use crate::model::{Error, Namespace, Result};

/// A transaction that reads.
pub struct Snapshot<'e> {
    txn: RoTxn<'e, WithoutTls>,
    tables: &'e Tables,
}

/// A transaction that changes records. It is committed or thrown away by the writer, never here.
pub struct Change<'e> {
    pub(super) txn: RwTxn<'e>,
    pub(super) tables: &'e Tables,
    /// Something was changed in it.
    pub(super) wrote: bool,
    /// LMDB failed in it: the whole transaction is lost, whatever the job made of it.
    pub(super) fault: Option<Error>,
}

/// A record that may be collected from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// Where it is.
    pub namespace: Namespace,
    /// What it is.
    pub kind: Kind,
    /// Its name, or its id.
    pub name: String,
    /// The value of its label.
    pub when: String,
}

pub(super) mod sealed {
    /// Gives `Records` its transaction without showing heed outside.
    pub trait Txn {
        fn txn(&self) -> &heed::RoTxn<'_>;
        fn tables(&self) -> &super::Tables;
    }
}

impl sealed::Txn for Snapshot<'_> {
    fn txn(&self) -> &RoTxn<'_> {
        &self.txn
    }
    fn tables(&self) -> &Tables {
        self.tables
    }
}

impl sealed::Txn for Change<'_> {
    fn txn(&self) -> &RoTxn<'_> {
        &self.txn
    }
    fn tables(&self) -> &Tables {
        self.tables
    }
}

impl Records for Snapshot<'_> {}
impl Records for Change<'_> {}

/// What can be read in a transaction.
pub trait Records: sealed::Txn {
    /// The encoded record of that name; an error when it is damaged.
    fn record(&self, namespace: &Namespace, kind: Kind, name: &str) -> Result<Option<&[u8]>> {
        get(self, &schema::key(namespace, kind, name)).map_err(|fault| {
            fault.told(|| format!("{} {} in namespace {namespace}", kind.noun(), quote(name)))
        })
    }

    /// The encoded `Namespace` of that name; an error when it is damaged.
    fn namespace(&self, namespace: &Namespace) -> Result<Option<&[u8]>> {
        get(self, &schema::namespace_key(namespace))
            .map_err(|fault| fault.told(|| format!("namespace {namespace}")))
    }

    /// Looks for the first record, whichever it is: an error when LMDB cannot be read.
    fn probe(&self) -> Result<()> {
        let first = self.tables().records.first(self.txn());
        first.map(drop).map_err(|e| failure("reading", &e))
    }

    /// The records of a kind in a namespace, in byte order of their names.
    fn walk(&self, namespace: &Namespace, kind: Kind) -> Result<Walk<'_>> {
        Walk::new(self, namespace, kind, b"")
    }

    /// The images in a namespace whose names begin so, in byte order of names; when the beginning is
    /// very long, others too.
    fn walk_names(&self, namespace: &Namespace, beginning: &[u8]) -> Result<Walk<'_>> {
        Walk::new(self, namespace, Kind::Image, beginning)
    }

    /// Images among which are all that match the filter of `plan`, in byte order of names, if that
    /// takes no more than `most` look-ups.
    fn candidates(
        &self,
        namespace: &Namespace,
        plan: &Plan,
        most: usize,
    ) -> Result<Option<Vec<Entry<'_>>>> {
        search::candidates(self, namespace, plan, most)
    }

    /// How many records there are, of all kinds in all namespaces.
    fn size(&self) -> Result<u64> {
        self.tables().records.len(self.txn()).map_err(told)
    }

    /// The names of all namespaces, in byte order.
    fn namespaces(&self) -> Result<Vec<Namespace>> {
        walk::namespaces(self)
    }

    /// How many images are set aside.
    fn aside(&self) -> Result<u64> {
        self.tables().aside.len(self.txn()).map_err(told)
    }

    /// How many images are set aside, by namespace.
    fn aside_by_namespace(&self) -> Result<BTreeMap<String, u64>> {
        walk::aside_by_namespace(self)
    }

    /// All records that have a time from which on they may be collected, whether it has come or
    /// not.
    fn expiring(&self) -> Result<Vec<Expiring>> {
        walk::expiring(self)
    }
}

/// Why a record cannot be had.
enum Fault {
    Damaged,
    Store(Error),
}

impl Fault {
    fn told(self, what: impl FnOnce() -> String) -> Error {
        match self {
            Self::Damaged => damaged(&what()),
            Self::Store(error) => error,
        }
    }
}

fn get<'t>(txn: &'t (impl sealed::Txn + ?Sized), key: &[u8]) -> Result<Option<&'t [u8]>, Fault> {
    let value = txn.tables().records.get(txn.txn(), key).map_err(|e| Fault::Store(told(e)))?;
    value.map(|value| value::unseal(key, value)).transpose().map_err(|_| Fault::Damaged)
}

pub(super) fn told(e: heed::Error) -> Error {
    failure("reading the store", &e)
}

pub(super) fn damaged(what: &str) -> Error {
    Error::DataLoss(format!("{what} is damaged in the store: its checksum is wrong"))
}

impl<'e> Snapshot<'e> {
    pub(super) fn new(txn: RoTxn<'e, WithoutTls>, tables: &'e Tables) -> Self {
        Self { txn, tables }
    }

    pub(super) fn parts(&self) -> (&RoTxn<'e, WithoutTls>, &'e Tables) {
        (&self.txn, self.tables)
    }
}

impl<'e> Change<'e> {
    pub(super) fn new(txn: RwTxn<'e>, tables: &'e Tables) -> Self {
        Self { txn, tables, wrote: false, fault: None }
    }

    /// Writes an encoded record under that name, in place of one that is there. `expires` is the
    /// value of its label `containerd.io/gc.expire`, if it has one.
    pub fn put(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
        message: &[u8],
        expires: Option<&str>,
    ) -> Result<()> {
        let key = schema::key(namespace, kind, name);
        self.put_value(&key, message)?;
        let expiring = self.tables.expiring;
        let noted = match expires {
            Some(when) => expiring.put(&mut self.txn, &key, when.as_bytes()),
            None => expiring.delete(&mut self.txn, &key).map(drop),
        };
        noted.map_err(|e| self.broke("writing a record", &e))
    }

    /// Removes the record of that name; says whether it was there.
    pub fn delete(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        self.delete_key(&schema::key(namespace, kind, name))
    }

    /// Removes the record of that name, but keeps it where a recovery finds it; says whether it
    /// was there.
    pub fn set_aside(&mut self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let key = schema::key(namespace, kind, name);
        let told = |e| failure("setting a record aside", &e);
        let value = self.tables.records.get(&self.txn, &key).map_err(told)?.map(<[u8]>::to_vec);
        if let Some(value) = value {
            self.wrote = true;
            let kept = self.tables.aside.put(&mut self.txn, &key, &value);
            kept.map_err(|e| self.broke("setting a record aside", &e))?;
        }
        self.delete_key(&key)
    }

    /// Writes a record as one that was set aside, in place of one that is there.
    pub fn put_aside(
        &mut self,
        namespace: &Namespace,
        kind: Kind,
        name: &str,
        message: &[u8],
    ) -> Result<()> {
        self.wrote = true;
        let key = schema::key(namespace, kind, name);
        let put = self.tables.aside.put(&mut self.txn, &key, &value::seal(&key, message));
        put.map_err(|e| self.broke("setting a record aside", &e))
    }

    /// Writes the encoded `Namespace`, in place of one that is there.
    pub fn put_namespace(&mut self, namespace: &Namespace, message: &[u8]) -> Result<()> {
        self.put_value(&schema::namespace_key(namespace), message)
    }

    /// Removes a namespace and all its leases; says whether it was there. It must hold no images.
    pub fn delete_namespace(&mut self, namespace: &Namespace) -> Result<bool> {
        for key in walk::keys(self, &schema::prefix(namespace, Kind::Lease))? {
            self.delete_key(&key)?;
        }
        self.delete_key(&schema::namespace_key(namespace))
    }

    fn put_value(&mut self, key: &[u8], message: &[u8]) -> Result<()> {
        self.wrote = true;
        self.reindex(key, indexes::entries(key, message))?;
        let put = self.tables.records.put(&mut self.txn, key, &value::seal(key, message));
        put.map_err(|e| self.broke("writing a record", &e))
    }

    fn delete_key(&mut self, key: &[u8]) -> Result<bool> {
        self.reindex(key, BTreeSet::new())?;
        let (records, expiring) = (self.tables.records, self.tables.expiring);
        let deleted = expiring
            .delete(&mut self.txn, key)
            .and_then(|_| records.delete(&mut self.txn, key))
            .map_err(|e| self.broke("removing a record", &e))?;
        self.wrote |= deleted;
        Ok(deleted)
    }

    /// Makes `new` the index's entries for the record under `key`, in place of those of the record
    /// that is there. Call it before that one goes.
    fn reindex(&mut self, key: &[u8], new: BTreeSet<Vec<u8>>) -> Result<()> {
        let old = match get(self, key) {
            Ok(old) => old.map(|message| indexes::entries(key, message)).unwrap_or_default(),
            // Which those of a damaged record were cannot be told; they do no harm.
            Err(Fault::Damaged) => BTreeSet::new(),
            Err(Fault::Store(error)) => return Err(error),
        };
        let index = self.tables.index;
        for gone in old.difference(&new) {
            self.wrote = true;
            index.delete(&mut self.txn, gone).map_err(|e| self.broke("writing the index", &e))?;
        }
        for entry in new.difference(&old) {
            index
                .put(&mut self.txn, entry, b"")
                .map_err(|e| self.broke("writing the index", &e))?;
        }
        Ok(())
    }

    fn broke(&mut self, doing: &str, error: &heed::Error) -> Error {
        let error = failure(doing, error);
        self.fault.get_or_insert_with(|| error.clone());
        error
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::schema::NAME_HEAD;
    use super::*;
    use crate::api::images::Image;
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
            s.walk(ns, Kind::Image)?
                .map(|e| Ok(Image::parse_from_bytes(e?.message()?).unwrap().name))
                .collect()
        });
        names.unwrap()
    }

    #[test]
    fn names_of_any_length_list_in_byte_order() {
        let (_dir, store) = store();
        let (before, ns, after) = (namespace("a"), namespace("a.b"), namespace("a0"));
        let head = "h".repeat(NAME_HEAD);
        let cut_inside_a_character = format!("{}ü", "h".repeat(NAME_HEAD - 1));
        let mut names: Vec<String> =
            ["", "/", "x", "xyz", "~", "é", "\u{10ffff}", &head, &cut_inside_a_character]
                .iter()
                .flat_map(|stem| ["", "z", "a", "\0", "é"].map(|end| format!("{stem}{end}")))
                .chain((0..40).map(|i| format!("{head}/{i}")))
                .chain([
                    format!("{head}{}", "a".repeat(40_000)),
                    format!("{}i", "h".repeat(NAME_HEAD - 1)),
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
        let bad = move |c: &mut Change<'_>| {
            let key = schema::key(&damage, Kind::Image, "b");
            c.wrote = true;
            c.tables.records.put(&mut c.txn, &key, b"rotten").map_err(told)
        };
        store.writer().write_blocking(bad).unwrap();
        let got = store.read(|s| s.record(&ns, Kind::Image, "b").map(drop)).unwrap_err();
        assert!(
            matches!(&got, Error::DataLoss(m) if m.contains("image \"b\" in namespace n")),
            "{got}"
        );
        let whole = store
            .read(|s| {
                Ok(s.walk(&ns, Kind::Image)?
                    .filter(|e| e.as_ref().unwrap().message().is_ok())
                    .count())
            })
            .unwrap();
        assert_eq!(whole, 2);
    }

    #[test]
    fn what_expires_is_known_as_long_as_it_is_there() {
        let (_dir, store) = store();
        let ns = namespace("n");
        let long = "x".repeat(1000);
        for (name, expires) in [("a", Some("soon")), ("b", None), (&long, Some("later"))] {
            let message = Image { name: name.into(), ..Image::default() }.write_to_bytes().unwrap();
            let (ns, name) = (ns.clone(), name.to_owned());
            let put = move |c: &mut Change<'_>| c.put(&ns, Kind::Image, &name, &message, expires);
            store.writer().write_blocking(put).unwrap();
        }
        let expiring = || store.read(|s| s.expiring()).unwrap();
        let of = |name: &str, when: &str| Expiring {
            namespace: ns.clone(),
            kind: Kind::Image,
            name: name.into(),
            when: when.into(),
        };
        assert_eq!(expiring(), [of("a", "soon"), of(&long, "later")]);
        put(&store, &ns, "a");
        let doomed = (ns.clone(), long.clone());
        store
            .writer()
            .write_blocking(move |c| c.delete(&doomed.0, Kind::Image, &doomed.1))
            .unwrap();
        assert_eq!(expiring(), []);
    }

    #[test]
    fn a_namespace_goes_with_its_leases() {
        let (_dir, store) = store();
        let (ns, other) = (namespace("n"), namespace("o"));
        for ns in [ns.clone(), other.clone()] {
            let work = move |c: &mut Change<'_>| {
                c.put_namespace(&ns, b"")?;
                c.put(&ns, Kind::Lease, "l", b"", Some("soon"))
            };
            store.writer().write_blocking(work).unwrap();
        }
        store.writer().write_blocking(move |c| c.delete_namespace(&ns)).unwrap();
        let left = store.read(|s| Ok((s.namespaces()?, s.expiring()?.len()))).unwrap();
        assert_eq!(left, (vec![other], 1));
    }
}

//! Records inside a transaction: looking them up, walking them in order, changing them.
//!
//! [`Snapshot`] reads one state; [`Change`] reads its own writes too. Both are used through
//! [`Records`]. Records are handed out as the bytes of their message, already checked against
//! their checksum; decoding is the caller's.

use std::ops::Bound;

use heed::types::Bytes;
use heed::{RoRange, RoTxn, RwTxn, WithoutTls};

use super::schema::{self, LONG_MARKER, NAME_HEAD, Tables};
use super::{failure, value};
use crate::model::go::quote::quote;
use crate::model::go::text::lossy;
use crate::model::{Error, Namespace, Result};

/// A transaction that reads.
pub struct Snapshot<'e> {
    txn: RoTxn<'e, WithoutTls>,
    tables: &'e Tables,
}

/// A transaction that changes records. It is committed or thrown away by the writer, never here.
pub struct Change<'e> {
    pub(super) txn: RwTxn<'e>,
    tables: &'e Tables,
    /// Something was changed in it.
    pub(super) wrote: bool,
    /// LMDB failed in it: the whole transaction is lost, whatever the job made of it.
    pub(super) fault: Option<Error>,
}

/// One image of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'t> {
    key: &'t [u8],
    value: &'t [u8],
    /// Bytes of the key before the name.
    prefix: usize,
}

mod sealed {
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
    /// The encoded `Image` of that name; an error when it is damaged.
    fn image(&self, namespace: &Namespace, name: &str) -> Result<Option<&[u8]>> {
        let key = schema::image_key(namespace, name);
        let value = get(self, &key)?;
        value
            .map(|v| value::unseal(&key, v))
            .transpose()
            .map_err(|_| damaged(&format!("image {} in namespace {namespace}", quote(name))))
    }

    /// The encoded `Namespace` of that name; an error when it is damaged.
    fn namespace(&self, namespace: &Namespace) -> Result<Option<&[u8]>> {
        let key = schema::namespace_key(namespace);
        let value = get(self, &key)?;
        value
            .map(|v| value::unseal(&key, v))
            .transpose()
            .map_err(|_| damaged(&format!("namespace {namespace}")))
    }

    /// The images of a namespace in byte order of their names.
    fn images(&self, namespace: &Namespace) -> Result<Images<'_>> {
        let prefix = schema::images_prefix(namespace);
        let range = range_from(self, &prefix)?;
        Ok(Images { range, prefix, run: Vec::new(), ahead: None })
    }

    /// The names of all namespaces, in byte order.
    fn namespaces(&self) -> Result<Vec<Namespace>> {
        let mut found = Vec::new();
        let mut from = schema::ROOT_PREFIX.to_vec();
        // Records of a namespace lie between it and others: each is skipped with one look-up.
        while let Some(key) = first_key_from(self, &from)? {
            let Some(path) = key.strip_prefix(schema::ROOT_PREFIX) else { break };
            let name = match path.iter().position(|b| *b == b'/') {
                None => {
                    let name =
                        std::str::from_utf8(path).ok().and_then(|n| Namespace::parse(n).ok());
                    found.push(name.ok_or_else(|| damaged(&format!("key {}", lossy(key))))?);
                    from = [key, b"\0"].concat();
                    continue;
                }
                Some(slash) => path.get(..slash).unwrap_or_default(),
            };
            // The byte after '/' follows every key below this namespace.
            from = [schema::ROOT_PREFIX, name, b"0"].concat();
        }
        Ok(found)
    }
}

fn told(e: heed::Error) -> Error {
    failure("reading the store", &e)
}

fn damaged(what: &str) -> Error {
    Error::DataLoss(format!("{what} is damaged in the store: its checksum is wrong"))
}

fn get<'t>(txn: &'t (impl sealed::Txn + ?Sized), key: &[u8]) -> Result<Option<&'t [u8]>> {
    txn.tables().records.get(txn.txn(), key).map_err(told)
}

fn range_from<'t>(
    txn: &'t (impl sealed::Txn + ?Sized),
    from: &[u8],
) -> Result<RoRange<'t, Bytes, Bytes>> {
    let bounds = (Bound::Included(from), Bound::Unbounded);
    txn.tables().records.range(txn.txn(), &bounds).map_err(told)
}

fn first_key_from<'t>(
    txn: &'t (impl sealed::Txn + ?Sized),
    from: &[u8],
) -> Result<Option<&'t [u8]>> {
    let found = txn.tables().records.get_greater_than_or_equal_to(txn.txn(), from).map_err(told)?;
    Ok(found.map(|(key, _)| key))
}

/// The images of one namespace, in byte order of names. A damaged record is an item of its own;
/// the walk goes on behind it.
pub struct Images<'t> {
    range: RoRange<'t, Bytes, Bytes>,
    prefix: Vec<u8>,
    /// Long names with one head, sorted by name from last to first.
    run: Vec<Entry<'t>>,
    /// The entry behind that run, already read.
    ahead: Option<Entry<'t>>,
}

impl<'t> Images<'t> {
    fn read(&mut self) -> Result<Option<Entry<'t>>> {
        let Some((key, value)) = self.range.next().transpose().map_err(told)? else {
            return Ok(None);
        };
        Ok(key.starts_with(&self.prefix).then_some(Entry { key, value, prefix: self.prefix.len() }))
    }

    fn read_run(&mut self, first: Entry<'t>) -> Result<()> {
        let head = first.head();
        self.run.push(first);
        while let Some(entry) = self.read()? {
            if !entry.is_long() || entry.head() != head {
                self.ahead = Some(entry);
                break;
            }
            self.run.push(entry);
        }
        if self.run.len() > 1 {
            let mut named: Vec<_> = self.run.drain(..).map(|e| (e.sort_key(), e)).collect();
            named.sort_by(|(a, _), (b, _)| b.cmp(a));
            self.run.extend(named.into_iter().map(|(_, e)| e));
        }
        Ok(())
    }
}

impl<'t> Iterator for Images<'t> {
    type Item = Result<Entry<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.run.pop() {
            return Some(Ok(entry));
        }
        let read = match self.ahead.take() {
            Some(entry) => Ok(Some(entry)),
            None => self.read(),
        };
        match read {
            Ok(Some(entry)) if entry.is_long() => match self.read_run(entry) {
                Ok(()) => self.run.pop().map(Ok),
                Err(e) => Some(Err(e)),
            },
            other => other.transpose(),
        }
    }
}

impl<'t> Entry<'t> {
    /// The encoded `Image`; an error when it is damaged.
    pub fn message(&self) -> Result<&'t [u8]> {
        value::unseal(self.key, self.value)
            .map_err(|_| damaged(&format!("image {}", quote(self.name_bytes()))))
    }

    /// The name as far as the key has it: whole, but for long names.
    fn name_bytes(&self) -> &'t [u8] {
        let name = self.key.get(self.prefix..).unwrap_or_default();
        if self.is_long() { name.get(..NAME_HEAD).unwrap_or(name) } else { name }
    }

    fn head(&self) -> &'t [u8] {
        self.name_bytes()
    }

    fn is_long(&self) -> bool {
        self.key.get(self.prefix + NAME_HEAD) == Some(&LONG_MARKER)
    }

    /// The whole name of a long entry, out of its record; a damaged one goes by its key.
    fn sort_key(&self) -> Vec<u8> {
        use protobuf::Message;
        let image =
            self.message().ok().and_then(|m| crate::api::images::Image::parse_from_bytes(m).ok());
        image.map_or_else(|| self.name_bytes().to_vec(), |image| image.name.into_bytes())
    }
}

impl<'e> Snapshot<'e> {
    pub(super) fn new(txn: RoTxn<'e, WithoutTls>, tables: &'e Tables) -> Self {
        Self { txn, tables }
    }
}

impl<'e> Change<'e> {
    pub(super) fn new(txn: RwTxn<'e>, tables: &'e Tables) -> Self {
        Self { txn, tables, wrote: false, fault: None }
    }

    /// Writes the encoded `Image` under that name, in place of one that is there.
    pub fn put_image(&mut self, namespace: &Namespace, name: &str, message: &[u8]) -> Result<()> {
        self.put(&schema::image_key(namespace, name), message)
    }

    /// Removes the image of that name; says whether it was there.
    pub fn delete_image(&mut self, namespace: &Namespace, name: &str) -> Result<bool> {
        self.wrote = true;
        let deleted =
            self.tables.records.delete(&mut self.txn, &schema::image_key(namespace, name));
        deleted.map_err(|e| self.broke("removing an image", &e))
    }

    /// Writes the encoded `Namespace`, in place of one that is there.
    pub fn put_namespace(&mut self, namespace: &Namespace, message: &[u8]) -> Result<()> {
        self.put(&schema::namespace_key(namespace), message)
    }

    fn put(&mut self, key: &[u8], message: &[u8]) -> Result<()> {
        self.wrote = true;
        let put = self.tables.records.put(&mut self.txn, key, &value::seal(key, message));
        put.map_err(|e| self.broke("writing a record", &e))
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
        store.writer().write_blocking(move |c| c.put_image(&ns, &name, &message)).unwrap();
    }

    fn listed(store: &Store, ns: &Namespace) -> Vec<String> {
        let names = store.read(|s| {
            s.images(ns)?
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
            assert!(store.read(|s| Ok(s.image(&ns, name)?.is_some())).unwrap(), "{name}");
        }
    }

    #[test]
    fn a_long_name_is_found_only_by_all_of_itself() {
        let (_dir, store) = store();
        let ns = namespace("n");
        let long = "x".repeat(1000);
        put(&store, &ns, &long);
        assert!(store.read(|s| Ok(s.image(&ns, &long[1..])?.is_none())).unwrap());
        let doomed = (ns.clone(), long.clone());
        assert_eq!(
            store.writer().write_blocking(move |c| c.delete_image(&doomed.0, &doomed.1)),
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
            let key = schema::image_key(&damage, "b");
            c.wrote = true;
            c.tables.records.put(&mut c.txn, &key, b"rotten").map_err(told)
        };
        store.writer().write_blocking(bad).unwrap();
        let got = store.read(|s| s.image(&ns, "b").map(drop)).unwrap_err();
        assert!(
            matches!(&got, Error::DataLoss(m) if m.contains("image \"b\" in namespace n")),
            "{got}"
        );
        let whole = store
            .read(|s| Ok(s.images(&ns)?.filter(|e| e.as_ref().unwrap().message().is_ok()).count()))
            .unwrap();
        assert_eq!(whole, 2);
    }
}

//! Scanning records in order of their names.
//!
//! LMDB's order of keys is the order of names, except for long names. Long names with the same beginning
//! lie side by side in the order of their hashes, and this module sorts them, run by run (`schema` says
//! why that is enough).

use crate::store::schema::keys;
use std::collections::BTreeMap;

use go_compat::quote::quote;
use go_compat::text::lossy;
use protobuf::CodedInputStream;

use crate::model::{Namespace, Result};
use crate::store::read::snapshot_limit::SnapshotLimit;
use crate::store::read::state::{ReadState, damaged};
use crate::store::read::view::Prefixed;
use crate::store::schema::keys::{Kind, LONG_MARKER, NAME_PREFIX_BYTES};
use crate::store::schema::table::Table;
use crate::store::schema::value;

/// The key of a record in the list of expiring records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey(pub(crate) Box<[u8]>);

impl RecordKey {
    /// The key of the record `name`.
    pub fn new(namespace: &Namespace, kind: Kind, name: &str) -> Self {
        Self(keys::key(namespace, kind, name).into())
    }

    /// The position before all keys.
    pub fn first() -> Self {
        Self(Box::default())
    }
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&quote(lossy(&self.0).as_bytes()))
    }
}

/// A record with an expiry time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// The namespace of the record.
    pub namespace: Namespace,
    /// The kind of the record.
    pub kind: Kind,
    /// The name of an image, or the id of a lease.
    pub name: String,
    /// The value of the label `containerd.io/gc.expire`.
    pub when: String,
}

/// A record of a scan.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'t> {
    pub(crate) key: &'t [u8],
    pub(crate) value: &'t [u8],
    /// The offset of the name in the key, in bytes.
    pub(crate) prefix: usize,
    pub(crate) kind: Kind,
}

/// The records of one kind in a namespace whose names begin alike, in byte order of names. A damaged
/// record is an entry like others, whose message cannot be had.
pub struct Scan<'t> {
    limit: Option<&'t SnapshotLimit>,
    range: Prefixed<'t>,
    kind: Kind,
    /// Bytes of each key before the name.
    prefix: usize,
    /// Long names with one head, sorted by name from last to first.
    long_name_run: Vec<RecordRef<'t>>,
    /// The entry behind that run, already read.
    ahead: Option<RecordRef<'t>>,
}

impl<'t> Scan<'t> {
    pub(crate) fn new(
        state: &'t (impl ReadState + ?Sized),
        namespace: &Namespace,
        kind: Kind,
        names: &[u8],
    ) -> Result<Self> {
        let mut beginning = keys::prefix(namespace, kind);
        let prefix = beginning.len();
        beginning.extend(keys::name_prefix(names));
        let view = state.view();
        let range = view.prefix(Table::Records, beginning)?;
        Ok(Self {
            limit: view.limit(),
            range,
            kind,
            prefix,
            long_name_run: Vec::new(),
            ahead: None,
        })
    }

    fn read(&mut self) -> Result<Option<RecordRef<'t>>> {
        self.limit.map_or(Ok(()), SnapshotLimit::check)?;
        let found = self.range.next().transpose()?;
        let (prefix, kind) = (self.prefix, self.kind);
        Ok(found.map(|(key, value)| RecordRef { key, value, prefix, kind }))
    }

    fn read_run(&mut self, first: RecordRef<'t>) -> Result<()> {
        let head = first.head();
        self.long_name_run.push(first);
        while let Some(entry) = self.read()? {
            if !entry.is_long() || entry.head() != head {
                self.ahead = Some(entry);
                break;
            }
            self.long_name_run.push(entry);
        }
        self.long_name_run.sort_by(|a, b| b.name().cmp(a.name()));
        Ok(())
    }
}

impl<'t> Iterator for Scan<'t> {
    type Item = Result<RecordRef<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.long_name_run.pop() {
            return Some(Ok(entry));
        }
        let read = match self.ahead.take() {
            Some(entry) => Ok(Some(entry)),
            None => self.read(),
        };
        match read {
            Ok(Some(entry)) if entry.is_long() => match self.read_run(entry) {
                Ok(()) => self.long_name_run.pop().map(Ok),
                Err(e) => Some(Err(e)),
            },
            other => other.transpose(),
        }
    }
}

/// The images of a namespace whose names begin with `names`, behind the one at `position`, in order of their
/// positions. So a namespace can be read in pieces: the next piece begins behind the position
/// of the last image, even if that image has been deleted.
pub(crate) fn images_after<'t>(
    state: &'t (impl ReadState + ?Sized),
    namespace: &Namespace,
    names: &[u8],
    position: &[u8],
) -> Result<impl Iterator<Item = Result<RecordRef<'t>>>> {
    let kind = Kind::Image;
    let root = keys::prefix(namespace, kind);
    let prefix = root.len();
    let beginning = [&root, keys::name_prefix(names)].concat();
    // The byte 0 makes the first key behind that of the position.
    let from =
        if position.is_empty() { beginning.clone() } else { [&root, position, b"\0"].concat() };
    let view = state.view();
    let range = view.prefix_from(Table::Records, beginning, &from)?;
    Ok(range.map(move |found| {
        view.limit().map_or(Ok(()), SnapshotLimit::check)?;
        found.map(|(key, value)| RecordRef { key, value, prefix, kind })
    }))
}

impl<'t> RecordRef<'t> {
    /// The position of the image in its namespace: its name; for a long name, its first bytes and a hash.
    pub fn position(&self) -> &'t [u8] {
        self.key.get(self.prefix..).unwrap_or_default()
    }

    /// The encoded record.
    ///
    /// # Errors
    /// `DataLoss` if the record is damaged.
    pub fn message(&self) -> Result<&'t [u8]> {
        value::decode(self.key, self.value)
            .map_err(|_| damaged(&format!("{} {}", self.kind.noun(), quote(self.head()))))
    }

    /// The name for error sentences, which may be shortened if the record is damaged.
    pub(crate) fn display_name(&self) -> String {
        lossy(self.head()).into_owned()
    }

    /// The full name: from the key, or from the record for long names. Falls back to the key's head of
    /// the name if the record is damaged.
    pub(crate) fn name(&self) -> &'t [u8] {
        let head = self.head();
        if !self.is_long() {
            return head;
        }
        self.value.get(value::HEADER..).and_then(first_field).unwrap_or(head)
    }

    /// The part of the name that is in the key: the whole name, unless it is long.
    fn head(&self) -> &'t [u8] {
        let name = self.key.get(self.prefix..).unwrap_or_default();
        if self.is_long() { name.get(..NAME_PREFIX_BYTES).unwrap_or(name) } else { name }
    }

    fn is_long(&self) -> bool {
        self.key.get(self.prefix + NAME_PREFIX_BYTES) == Some(&LONG_MARKER)
    }
}

/// The bytes of a message's field 1, which in every kind of record is its name. Fields are written
/// in order of their numbers, so it is the first.
fn first_field(message: &[u8]) -> Option<&[u8]> {
    const FIELD_1: u32 = 1 << 3 | 2;
    let mut stream = CodedInputStream::from_bytes(message);
    if stream.read_raw_tag_or_eof().ok()? != Some(FIELD_1) {
        return None;
    }
    let length = usize::try_from(stream.read_raw_varint32().ok()?).ok()?;
    let start = usize::try_from(stream.pos()).ok()?;
    message.get(start..start.checked_add(length)?)
}

/// The names of all namespaces, in byte order. After an error there are no more.
pub(crate) fn namespaces(
    state: &(impl ReadState + ?Sized),
) -> impl Iterator<Item = Result<Namespace>> {
    let mut from = Some(keys::ROOT_PREFIX.to_vec());
    std::iter::from_fn(move || {
        let found = next_namespace(state, from.take()?);
        let found = found.transpose()?;
        Some(found.map(|(namespace, next)| {
            from = Some(next);
            namespace
        }))
    })
}

/// The first namespace whose key is not before that one, and the key to go on with.
fn next_namespace(
    state: &(impl ReadState + ?Sized),
    mut from: Vec<u8>,
) -> Result<Option<(Namespace, Vec<u8>)>> {
    // Records of a namespace lie between it and others: each is skipped with one look-up.
    while let Some((key, _)) = state.view().seek(Table::Records, &from)? {
        state.view().check_held()?;
        let Some(path) = key.strip_prefix(keys::ROOT_PREFIX) else { break };
        let Some(slash) = path.iter().position(|b| *b == b'/') else {
            return Ok(Some((parse_namespace(path, key)?, [key, b"\0"].concat())));
        };
        // The byte after '/' follows every key below this namespace.
        from = [keys::ROOT_PREFIX, path.get(..slash).unwrap_or_default(), b"0"].concat();
    }
    Ok(None)
}

/// The keys from `from` on of the records that have a time to go, with the values of their labels.
pub(crate) fn expiring_keys<'s, S: ReadState + ?Sized>(
    state: &'s S,
    from: &RecordKey,
) -> Result<impl Iterator<Item = Result<(RecordKey, String)>> + use<'s, S>> {
    let all = state.view().range_from(Table::Expiring, &from.0)?;
    Ok(all.map(|noted| noted.map(expiring_key)))
}

/// The keys of a namespace's images that have a time of expiry, with the values of their labels.
pub(crate) fn expiring_images(
    state: &(impl ReadState + ?Sized),
    namespace: &Namespace,
) -> Result<impl Iterator<Item = Result<(RecordKey, String)>>> {
    let all = state.view().prefix(Table::Expiring, keys::prefix(namespace, Kind::Image))?;
    Ok(all.map(|noted| noted.map(expiring_key)))
}

fn expiring_key((key, when): (&[u8], &[u8])) -> (RecordKey, String) {
    (RecordKey(key.into()), lossy(when).into_owned())
}

/// The record under a key, if it has an expiry time.
pub(crate) fn expiring(
    state: &(impl ReadState + ?Sized),
    key: &RecordKey,
) -> Result<Option<Expiring>> {
    let key = &*key.0;
    let (when, value) =
        (state.view().get(Table::Expiring, key)?, state.view().get(Table::Records, key)?);
    let (Some(when), Some(value)) = (when, value) else { return Ok(None) };
    let strange = || damaged(&format!("key {}", lossy(key)));
    let Some((namespace, Some(kind))) = keys::parse_key(key) else { return Err(strange()) };
    let prefix = keys::prefix(&namespace, kind).len();
    let name = RecordRef { key, value, prefix, kind }.name().to_vec();
    let name = String::from_utf8(name).map_err(|_| strange())?;
    Ok(Some(Expiring { namespace, kind, name, when: lossy(when).into_owned() }))
}

/// The number of set-aside images by namespace.
pub(crate) fn aside_by_namespace(
    state: &(impl ReadState + ?Sized),
) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for noted in state.view().range_from(Table::SetAside, b"")? {
        let (key, _) = noted?;
        let path = key.strip_prefix(keys::ROOT_PREFIX).unwrap_or_default();
        let namespace = path.split(|b| *b == b'/').next().unwrap_or_default();
        *found.entry(lossy(namespace).into_owned()).or_default() += 1;
    }
    Ok(found)
}

/// The keys that begin with `prefix`.
pub(crate) fn collect_keys(
    state: &(impl ReadState + ?Sized),
    prefix: Vec<u8>,
) -> Result<Vec<Vec<u8>>> {
    state.view().prefix(Table::Records, prefix)?.map(|found| Ok(found?.0.to_vec())).collect()
}

fn parse_namespace(name: &[u8], key: &[u8]) -> Result<Namespace> {
    let parsed = std::str::from_utf8(name).ok().and_then(|name| Namespace::parse(name).ok());
    parsed.ok_or_else(|| damaged(&format!("key {}", lossy(key))))
}

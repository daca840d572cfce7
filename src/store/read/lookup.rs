//! Finds the images of a plan: by name in the records, by digest or label in the index.
//!
//! The result is a list of candidates, in byte order of names, each once: every image that matches the plan's
//! filter, and perhaps others. The caller applies the filter to each.

use crate::model::image::plan::{Lookup, QueryPlan};
use crate::model::{Namespace, Result};
use crate::store::read::scan::RecordRef;
use crate::store::read::state::ReadState;
use crate::store::read::view::Prefixed;
use crate::store::schema::index;
use crate::store::schema::keys;
use crate::store::schema::keys::Kind;
use crate::store::schema::table::Table;

/// The candidates of a plan; `None` if the plan examines every image, or if there are more than `limit`
/// candidates. The search calls `step` regularly; an error of `step` ends the search.
pub(crate) fn candidates<'t>(
    state: &'t (impl ReadState + ?Sized),
    namespace: &Namespace,
    plan: &QueryPlan,
    limit: usize,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<Option<Vec<RecordRef<'t>>>> {
    let QueryPlan::Lookups(alternatives) = plan else { return Ok(None) };
    let prefix = keys::prefix(namespace, Kind::Image);
    let mut search = CandidateSearch { state, namespace, prefix, limit, found: Vec::new(), step };
    for lookups in alternatives {
        match search.cheapest(lookups)? {
            Some(lookup) if search.lookup(lookup)? => {}
            _ => return Ok(None),
        }
    }
    let mut found = search.found;
    // The candidates of one look-up are in order, except for long names.
    found.sort_by(|a, b| a.name().cmp(b.name()).then(a.key.cmp(b.key)));
    found.dedup_by(|a, b| a.key == b.key);
    Ok(Some(found))
}

struct CandidateSearch<'t, 's, T: ?Sized> {
    state: &'t T,
    namespace: &'s Namespace,
    /// The prefix of the keys of all images of the namespace.
    prefix: Vec<u8>,
    limit: usize,
    found: Vec<RecordRef<'t>>,
    step: &'s mut dyn FnMut() -> Result<()>,
}

/// The most look-ups of an alternative that are tried. Each of them finds all images that match it.
const MAX_LOOKUPS: usize = 8;

impl<'t, T: ReadState + ?Sized> CandidateSearch<'t, '_, T> {
    /// The look-up that finds the fewest images: they advance in turn, and the first one to finish is used. So
    /// the cost is at most that of this look-up, times the number of look-ups.
    fn cheapest<'l>(&mut self, lookups: &'l [Lookup]) -> Result<Option<&'l Lookup>> {
        let name = lookups.iter().find(|lookup| matches!(lookup, Lookup::Name(_)));
        match (name, lookups) {
            (Some(name), _) => return Ok(Some(name)),
            (None, [only]) => return Ok(Some(only)),
            _ => {}
        }
        let mut runners = Vec::new();
        for lookup in lookups.iter().take(MAX_LOOKUPS) {
            runners.push((lookup, self.range(lookup)?));
        }
        for _ in 0..=self.limit {
            (self.step)()?;
            for (lookup, range) in &mut runners {
                if range.next().transpose()?.is_none() {
                    return Ok(Some(lookup));
                }
            }
        }
        Ok(None)
    }

    /// Adds what a look-up finds; says whether there was room for all of it.
    fn lookup(&mut self, lookup: &Lookup) -> Result<bool> {
        (self.step)()?;
        if let Lookup::Name(name) = lookup {
            let key = keys::key(self.namespace, Kind::Image, name);
            return self.record(&key);
        }
        let range = self.range(lookup)?;
        if let Lookup::NamePrefix(_) = lookup {
            for record in range {
                (self.step)()?;
                let (key, value) = record?;
                if !self.add(key, value) {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let odd = self.index(index::unindexed(self.namespace.as_str().as_bytes()))?;
        let mut key = self.prefix.clone();
        for entry in range.chain(odd) {
            (self.step)()?;
            let (entry, _) = entry?;
            key.truncate(self.prefix.len());
            key.extend(index::name(entry).unwrap_or_default());
            if !self.record(&key)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The keys that a look-up goes through: records, or entries of the index.
    fn range(&self, lookup: &Lookup) -> Result<Prefixed<'t>> {
        let namespace = self.namespace.as_str().as_bytes();
        match lookup {
            Lookup::Name(name) => self.records(name.as_bytes()),
            Lookup::NamePrefix(beginning) => self.records(beginning),
            Lookup::Digest(digest) => self.index(index::digest(namespace, digest)),
            Lookup::DigestPrefix(beginning) => {
                self.index(index::digest_prefix(namespace, beginning))
            }
            Lookup::Label { key, value } => self.index(index::label(namespace, key, value)),
        }
    }

    fn records(&self, beginning: &[u8]) -> Result<Prefixed<'t>> {
        let beginning = [&self.prefix, keys::name_prefix(beginning)].concat();
        self.state.view().prefix(Table::Records, beginning)
    }

    fn index(&self, beginning: Vec<u8>) -> Result<Prefixed<'t>> {
        self.state.view().prefix(Table::Index, beginning)
    }

    /// Adds the record under `key`, if there is one.
    fn record(&mut self, key: &[u8]) -> Result<bool> {
        // Not `get`: the key is wanted as it lies in the store.
        match self.state.view().seek(Table::Records, key)? {
            Some((found, value)) if found == key => Ok(self.add(found, value)),
            _ => Ok(true),
        }
    }

    fn add(&mut self, key: &'t [u8], value: &'t [u8]) -> bool {
        let room = self.found.len() < self.limit;
        if room {
            self.found.push(RecordRef { key, value, prefix: self.prefix.len(), kind: Kind::Image });
        }
        room
    }
}

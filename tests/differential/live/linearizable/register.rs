//! Checks whether the operations of one name are linearizable: each operation can take effect at one moment between its
//! beginning and its end, so that the order of these moments explains all answers.
//!
//! The search is that of Wing and Gong. It reads the history in the order of time, with all configurations that are
//! possible so far. A configuration is a value, and the set of pending writes that have taken effect. A write
//! takes effect when an operation that ends needs it. A read takes effect as soon as its answer fits, since it
//! changes nothing.

use std::collections::HashSet;
use std::fmt::Write;

use super::operation::{Operation, Value};

/// Operations of one name under way at once: the bits of a mask.
const MAX_PENDING: usize = 64;

/// A check that meets more configurations gives up.
const MAX_CONFIGURATIONS: usize = 1_000_000;

/// Operations that a violation shows.
const SHOWN: usize = 20;

type Configuration = (Value, u64);

struct Search<'o> {
    operations: &'o [Operation],
    pending: Vec<Option<usize>>,
    configurations: HashSet<Configuration>,
}

/// The values that the name may have afterwards, or the operation that nothing explains.
pub fn check(before: HashSet<Value>, operations: &[Operation]) -> Result<HashSet<Value>, String> {
    let mut events: Vec<_> = operations
        .iter()
        .enumerate()
        .flat_map(|(n, operation)| [(operation.begin, true, n), (operation.end, false, n)])
        .collect();
    events.sort_unstable_by_key(|&(at, begins, n)| (at, !begins, n));
    let configurations = before.into_iter().map(|value| (value, 0)).collect();
    let mut search = Search { operations, pending: Vec::new(), configurations };
    for (_, begins, operation) in events {
        if begins { search.begin(operation) } else { search.end(operation)? }
    }
    Ok(search.configurations.into_iter().map(|(value, _)| value).collect())
}

impl Search<'_> {
    fn begin(&mut self, operation: usize) {
        let free = self.pending.iter().position(Option::is_none).unwrap_or(self.pending.len());
        assert!(free < MAX_PENDING, "too many operations at once");
        if free == self.pending.len() {
            self.pending.push(None);
        }
        self.pending[free] = Some(operation);
        if !self.operations[operation].effect.is_write() {
            let all = std::mem::take(&mut self.configurations);
            self.configurations = all.into_iter().map(|one| self.read(one)).collect();
        }
    }

    fn end(&mut self, operation: usize) -> Result<(), String> {
        let place = self.pending.iter().position(|one| *one == Some(operation)).unwrap();
        let bit = 1_u64 << place;
        let optional = self.operations[operation].in_doubt;
        let (mut after, mut seen) = (HashSet::new(), self.configurations.clone());
        let mut open: Vec<_> = seen.iter().copied().collect();
        while let Some(configuration @ (value, done)) = open.pop() {
            if optional || done & bit != 0 {
                after.insert((value, done & !bit));
            }
            if !optional && done & bit != 0 {
                continue;
            }
            for next in self.next(configuration) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
            assert!(seen.len() <= MAX_CONFIGURATIONS, "the search is too large");
        }
        if after.is_empty() {
            return Err(self.violation(operation));
        }
        self.pending[place] = None;
        self.configurations = after;
        Ok(())
    }

    /// What may be next, when one more write has its moment.
    fn next(&self, (value, done): Configuration) -> impl Iterator<Item = Configuration> {
        let writes = self.pending.iter().enumerate().filter_map(move |(place, operation)| {
            let effect = self.operations[(*operation)?].effect;
            let is_open = effect.is_write() && done & (1 << place) == 0;
            Some((is_open.then(|| effect.apply(value)).flatten()?, done | 1 << place))
        });
        writes.map(|next| self.read(next))
    }

    /// Gives its moment to each read whose answer fits.
    fn read(&self, (value, mut done): Configuration) -> Configuration {
        for (place, operation) in self.pending.iter().enumerate() {
            let Some(operation) = operation.map(|n| &self.operations[n]) else { continue };
            if !operation.effect.is_write() && operation.effect.apply(value).is_some() {
                done |= 1 << place;
            }
        }
        (value, done)
    }

    fn violation(&self, operation: usize) -> String {
        let failed = &self.operations[operation];
        let mut around: Vec<_> =
            self.operations.iter().filter(|other| other.begin < failed.end).collect();
        around.sort_by_key(|other| other.end);
        let mut text = format!("nothing explains\n    {failed}\npossible before:");
        for (value, _) in self.configurations.iter().take(8) {
            write!(text, " {value}").unwrap();
        }
        for other in &around[around.len().saturating_sub(SHOWN)..] {
            write!(text, "\n    {other}").unwrap();
        }
        text
    }
}

mod tests {
    use super::super::operation::Effect::{self, Create, Delete, NotListed, Put, Read, Update};
    use super::*;

    fn operation(begin: u64, end: u64, effect: Effect) -> Operation {
        Operation { client: "c", effect, begin, end, in_doubt: false }
    }

    fn holds(operations: &[Operation]) -> bool {
        check(HashSet::from([0]), operations).is_ok()
    }

    #[test]
    fn a_read_after_an_answered_write_sees_it() {
        let create = || operation(0, 1, Create(1));
        assert!(holds(&[create(), operation(2, 3, Read(1))]));
        assert!(!holds(&[create(), operation(2, 3, Read(0))]));
        assert!(holds(&[create(), operation(2, 3, NotListed(2))]));
        assert!(!holds(&[create(), operation(2, 3, NotListed(1))]));
        assert!(!holds(&[create(), operation(2, 3, Create(2))]));
        let deleted = [create(), operation(2, 3, Delete), operation(4, 5, Read(1))];
        assert!(!holds(&deleted));
    }

    #[test]
    fn a_read_sees_at_least_what_an_earlier_read_saw() {
        let with = |reads: [(u64, u32); 2]| {
            let reads = reads.map(|(at, value)| operation(at, at + 1, Read(value)));
            let writes = [operation(0, 1, Create(1)), operation(2, 9, Update(2))];
            holds(&[&writes[..], &reads[..]].concat())
        };
        assert!(with([(3, 1), (5, 2)]) && with([(3, 2), (5, 2)]) && with([(3, 1), (5, 1)]));
        assert!(!with([(3, 2), (5, 1)]), "the write is not answered, but was seen");
    }

    #[test]
    fn a_write_in_doubt_happens_before_its_end_or_never() {
        let doubt = Operation { in_doubt: true, ..operation(0, 10, Put(1)) };
        let with = |reads: &[(u64, u32)]| {
            let reads = reads.iter().map(|(at, value)| operation(*at, at + 1, Read(*value)));
            holds(&[doubt.clone()].into_iter().chain(reads).collect::<Vec<_>>())
        };
        assert!(with(&[(2, 0), (4, 1)]) && with(&[(20, 0)]) && with(&[(20, 1)]));
        assert!(!with(&[(2, 1), (4, 0)]) && !with(&[(20, 0), (22, 1)]));
    }
}

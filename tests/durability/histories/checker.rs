//! Checks whether a history is linearizable: each call can take effect at one moment between its beginning and its end,
//! so that the order of these moments explains all answers.
//!
//! This is the search of Wing and Gong, with Lowe's improvement. It reads the history in the order of time, with the set
//! of all configurations that are possible so far. A configuration is a state of the store, and the set of pending calls
//! that have taken effect. A change takes effect only when a call that ends needs it. A read, which changes nothing,
//! takes effect as soon as its answer fits.

use std::collections::HashSet;

use super::model::{Call, NAMES, Outcome, State, describe};

/// A check that meets more configurations than this gives up.
const MAX_CONFIGURATIONS: usize = 200_000;

/// Calls under way at once at most: the bits of a mask.
const MAX_PENDING: usize = 128;

/// Lines of a violation's report.
const SHOWN: usize = 40;

/// Why a history was not found to be linearizable.
#[derive(Debug)]
pub enum Failure {
    /// It is none; with the calls around the first answer that cannot be explained.
    Violation(String),
    /// The search gave up.
    TooLarge,
}

/// The states that a store may be in.
pub type States = HashSet<State>;

type Configuration = (State, u128);

struct Search<'c> {
    calls: Vec<&'c Call>,
    names: Vec<usize>,
    /// The calls under way, each in a place of its own.
    pending: Vec<Option<usize>>,
    configurations: HashSet<Configuration>,
}

/// Checks each name for itself, and then all together. Gives the states that the store may be in
/// after, and says whether all were checked together.
pub fn check(before: &States, calls: &[Call]) -> Result<(States, bool), Failure> {
    let mut names = Vec::new();
    for name in 0..NAMES.len() {
        let only = |state: &State| {
            let mut one = State::default();
            one[name] = state[name];
            one
        };
        names.push(check_names(before.iter().map(only).collect(), calls, &[name])?);
    }
    let all: Vec<_> = (0..NAMES.len()).collect();
    match check_names(before.clone(), calls, &all) {
        Ok(after) => Ok((after, true)),
        Err(Failure::TooLarge) => Ok((product(&names)?, false)),
        Err(violation) => Err(violation),
    }
}

/// All states whose names are in these states.
fn product(names: &[States]) -> Result<States, Failure> {
    let mut all = States::from([State::default()]);
    for (name, states) in names.iter().enumerate() {
        let with = |state: &State| {
            let state = *state;
            states.iter().map(move |one| {
                let mut state = state;
                state[name] = one[name];
                state
            })
        };
        all = all.iter().flat_map(with).collect();
        if all.len() > MAX_CONFIGURATIONS {
            return Err(Failure::TooLarge);
        }
    }
    Ok(all)
}

fn check_names(before: States, calls: &[Call], names: &[usize]) -> Result<States, Failure> {
    let counts = |call: &&Call| {
        let unknown_read = call.outcome == Outcome::Unknown && !call.operation.is_write();
        !unknown_read
            && call.outcome != Outcome::Refused
            && call.operation.name().is_none_or(|name| names.contains(&name))
    };
    let calls: Vec<_> = calls.iter().filter(counts).collect();
    let mut events: Vec<_> = (0..calls.len())
        .flat_map(|i| [(calls[i].begin, true, i), (calls[i].end, false, i)])
        .collect();
    events.sort_unstable_by_key(|&(at, begins, i)| (at, !begins, i));
    let mut search = Search {
        calls,
        names: names.to_vec(),
        pending: Vec::new(),
        configurations: before.into_iter().map(|state| (state, 0)).collect(),
    };
    for (_, begins, call) in events {
        if begins { search.begin(call)? } else { search.end(call)? }
    }
    Ok(search.configurations.into_iter().map(|(state, _)| state).collect())
}

impl Search<'_> {
    fn begin(&mut self, call: usize) -> Result<(), Failure> {
        let free = self.pending.iter().position(Option::is_none).unwrap_or(self.pending.len());
        if free == MAX_PENDING {
            return Err(Failure::TooLarge);
        }
        if free == self.pending.len() {
            self.pending.push(None);
        }
        self.pending[free] = Some(call);
        if !self.calls[call].is_change() {
            let all = std::mem::take(&mut self.configurations);
            self.configurations = all.into_iter().map(|one| self.apply_reads(one)).collect();
        }
        Ok(())
    }

    fn end(&mut self, call: usize) -> Result<(), Failure> {
        let place = self.pending.iter().position(|one| *one == Some(call)).unwrap();
        let bit = 1 << place;
        // A call in doubt may have had no moment at all.
        let optional = self.calls[call].outcome == Outcome::Unknown;
        let mut after = HashSet::new();
        let mut seen = self.configurations.clone();
        let mut open: Vec<_> = seen.iter().copied().collect();
        while let Some(configuration @ (state, done)) = open.pop() {
            if optional || done & bit != 0 {
                after.insert((state, done & !bit));
            }
            if !optional && done & bit != 0 {
                continue;
            }
            for next in self.next(configuration) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
            if seen.len() > MAX_CONFIGURATIONS {
                return Err(Failure::TooLarge);
            }
        }
        if after.is_empty() {
            return Err(Failure::Violation(self.violation(call)));
        }
        self.pending[place] = None;
        self.configurations = after;
        Ok(())
    }

    /// What may be next, when one more change has its moment.
    fn next(&self, (state, done): Configuration) -> impl Iterator<Item = Configuration> {
        let changes = self.pending.iter().enumerate().filter_map(move |(place, call)| {
            let call = self.calls[(*call)?];
            let open = call.is_change() && done & (1 << place) == 0;
            let after = open.then(|| call.apply(&state, &self.names)).flatten()?;
            Some((after, done | 1 << place))
        });
        changes.map(|next| self.apply_reads(next))
    }

    /// Gives its moment to each read whose answer fits.
    fn apply_reads(&self, (state, mut done): Configuration) -> Configuration {
        for (place, call) in self.pending.iter().enumerate() {
            let Some(call) = call.map(|call| self.calls[call]) else { continue };
            if !call.is_change() && call.apply(&state, &self.names).is_some() {
                done |= 1 << place;
            }
        }
        (state, done)
    }

    fn violation(&self, call: usize) -> String {
        let failed = self.calls[call];
        let mut around: Vec<_> =
            self.calls.iter().copied().filter(|c| c.begin < failed.end).collect();
        around.sort_by_key(|call| call.end);
        let states: HashSet<_> = self.configurations.iter().map(|(state, _)| state).collect();
        let names: Vec<_> = self.names.iter().map(|&name| NAMES[name]).collect();
        format!(
            "of {names:?}, no order explains\n{}  after\n{}  possible before: {:?}",
            describe(&[failed]),
            describe(&around[around.len().saturating_sub(SHOWN)..]),
            states.into_iter().take(4).collect::<Vec<_>>()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Filter, Operation, Record};
    use super::*;
    use Operation::{Create, Delete, Get, List, Mark, Update};
    use Outcome::{AlreadyExists, Found, Listed, NotFound, Refused, Unknown};

    fn call(begin: u64, end: u64, operation: Operation, outcome: Outcome) -> Call {
        Call { client: "c".into(), operation, outcome, begin, end }
    }

    fn empty() -> States {
        States::from([State::default()])
    }

    fn is_linearizable(calls: &[Call]) -> bool {
        match check(&empty(), calls) {
            Ok(_) => true,
            Err(Failure::Violation(_)) => false,
            Err(Failure::TooLarge) => panic!("too large"),
        }
    }

    fn updated(created: u32, write: u32) -> Record {
        Record { created, ..Record::new(write) }
    }

    #[test]
    fn a_read_after_an_answered_write_sees_it() {
        let create = call(0, 1, Create(0, 1), Found(Record::new(1)));
        assert!(is_linearizable(&[create.clone(), call(2, 3, Get(0), Found(Record::new(1)))]));
        assert!(!is_linearizable(&[create.clone(), call(2, 3, Get(0), NotFound)]));
        assert!(!is_linearizable(&[
            create.clone(),
            call(2, 3, Create(0, 2), Found(Record::new(2)))
        ]));
        assert!(is_linearizable(&[create.clone(), call(2, 3, Create(0, 2), AlreadyExists)]));
        assert!(!is_linearizable(&[create, call(2, 3, Delete(0, None), NotFound)]));
    }

    #[test]
    fn calls_at_the_same_time_have_either_order_but_one() {
        let both = [
            call(0, 1, Create(0, 1), Found(Record::new(1))),
            call(2, 9, Update(0, 2), Found(updated(1, 2))),
            call(3, 9, Update(0, 3), Found(updated(1, 3))),
        ];
        let with = |reads: &[(u64, u32)]| {
            let reads = reads
                .iter()
                .map(|(at, write)| call(*at, at + 1, Get(0), Found(updated(1, *write))));
            is_linearizable(&both.iter().cloned().chain(reads).collect::<Vec<_>>())
        };
        assert!(with(&[(10, 2)]) && with(&[(10, 3)]) && with(&[(4, 1), (6, 3), (10, 2)]));
        assert!(!with(&[(10, 1)]));
        assert!(!with(&[(10, 2), (12, 3)]));
        assert!(!with(&[(4, 3), (6, 2), (10, 3)]));
    }

    #[test]
    fn a_changed_label_leaves_the_rest() {
        let calls = |mark: Record| {
            [
                call(0, 1, Create(0, 1), Found(Record::new(1))),
                call(2, 3, Update(0, 2), Found(updated(1, 2))),
                call(4, 5, Mark(0, 3), Found(mark)),
            ]
        };
        let right = Record { created: 1, content: 2, mark: 3, updated: 3 };
        assert!(is_linearizable(&calls(right)));
        assert!(!is_linearizable(&calls(Record { content: 1, ..right })));
    }

    #[test]
    fn a_call_in_doubt_is_made_before_its_end_or_never() {
        let calls = |seen: &[(u64, Outcome)]| {
            let mut calls = vec![call(0, 10, Create(0, 1), Unknown)];
            let reads = seen.iter().map(|(at, seen)| call(*at, at + 1, Get(0), seen.clone()));
            calls.extend(reads);
            is_linearizable(&calls)
        };
        let found = || Found(Record::new(1));
        assert!(calls(&[(2, NotFound), (4, found())]) && calls(&[(20, NotFound)]));
        assert!(!calls(&[(2, found()), (4, NotFound)]));
        assert!(!calls(&[(20, NotFound), (22, found())]));
    }

    #[test]
    fn a_refused_write_changes_nothing() {
        let refused = call(0, 1, Create(0, 1), Refused);
        assert!(is_linearizable(&[refused.clone(), call(2, 3, Get(0), NotFound)]));
        assert!(!is_linearizable(&[refused, call(2, 3, Get(0), Found(Record::new(1)))]));
    }

    #[test]
    fn a_list_is_one_moment() {
        // Each name alone explains it: the second was written after the first was.
        let calls = |listed: &[(usize, u32)]| {
            let listed = listed.iter().map(|(name, write)| (*name, Record::new(*write))).collect();
            is_linearizable(&[
                call(1, 2, Create(0, 1), Found(Record::new(1))),
                call(3, 4, Create(1, 2), Found(Record::new(2))),
                call(0, 9, List(Filter::All), Listed(listed)),
            ])
        };
        assert!(calls(&[]) && calls(&[(0, 1)]) && calls(&[(0, 1), (1, 2)]));
        assert!(!calls(&[(1, 2)]));
        assert!(!calls(&[(0, 1), (0, 1)]));
    }

    #[test]
    fn a_filtered_list_lacks_only_what_does_not_match() {
        let calls = |filter: Filter, listed: &[(usize, u32)]| {
            let listed = listed.iter().map(|(name, write)| (*name, Record::new(*write))).collect();
            is_linearizable(&[
                call(0, 1, Create(2, 6), Found(Record::new(6))),
                call(2, 3, List(filter), Listed(listed)),
            ])
        };
        assert!(calls(Filter::Digest(2), &[(2, 6)]) && calls(Filter::Digest(1), &[]));
        assert!(!calls(Filter::Digest(2), &[]) && !calls(Filter::Prefix('b'), &[]));
        assert!(!calls(Filter::Digest(1), &[(2, 6)]) && calls(Filter::Prefix('a'), &[]));
    }
}

//! Which thread a connection lives on.
//!
//! The one with the fewest connections. But those of one process are never on more than half of the
//! threads: whoever keeps them busy, by mistake or on purpose, leaves the others to other processes, and
//! between threads the kernel shares out time more finely than anything here could.
//!
//! A process that is not known may be on all of them. The kernel calls those 0 that are in a namespace
//! of processes which we do not see: they need not be one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The threads' places.
#[derive(Debug, Clone)]
pub struct Placement(Arc<Mutex<Assignments>>);

#[derive(Debug)]
struct Assignments {
    /// How many connections each thread has.
    threads: Vec<usize>,
    /// On which threads each process has how many.
    processes: HashMap<i32, HashMap<usize, usize>>,
}

/// The place of a connection, free again when dropped.
#[derive(Debug)]
pub struct Assignment {
    places: Placement,
    /// The thread's number.
    pub thread: usize,
    process: Option<i32>,
}

impl Placement {
    /// Of so many threads.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Mutex::new(Assignments {
            threads: vec![0; threads],
            processes: HashMap::new(),
        })))
    }

    /// A place for a connection of that process.
    pub fn assign(&self, process: Option<i32>) -> Assignment {
        let process = process.filter(|process| *process > 0);
        let thread = self.change(|taken| taken.assign(process));
        Assignment { places: self.clone(), thread, process }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Assignments) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Assignments {
    fn assign(&mut self, process: Option<i32>) -> usize {
        let most = (self.threads.len() / 2).max(1);
        let mut has = process.map(|process| self.processes.entry(process).or_default());
        let may = |thread: &usize| match &has {
            Some(has) => has.len() < most || has.contains_key(thread),
            None => true,
        };
        let counts = self.threads.iter().enumerate().filter(|(thread, _)| may(thread));
        let thread = counts.min_by_key(|(_, count)| **count).map_or(0, |(thread, _)| thread);
        if let Some(has) = &mut has {
            *has.entry(thread).or_default() += 1;
        }
        if let Some(count) = self.threads.get_mut(thread) {
            *count += 1;
        }
        thread
    }

    fn unassign(&mut self, thread: usize, process: Option<i32>) {
        if let Some(count) = self.threads.get_mut(thread) {
            *count -= 1;
        }
        let Some((process, has)) = process.and_then(|p| Some((p, self.processes.get_mut(&p)?)))
        else {
            return;
        };
        if let Some(count) = has.get_mut(&thread) {
            *count -= 1;
            if *count == 0 {
                has.remove(&thread);
            }
        }
        if has.is_empty() {
            self.processes.remove(&process);
        }
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.places.change(|taken| taken.unassign(self.thread, self.process));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(places: &[Assignment]) -> Vec<usize> {
        places.iter().map(|place| place.thread).collect()
    }

    #[test]
    fn a_process_is_on_half_of_the_threads_and_others_go_where_there_are_fewest() {
        for (count, half) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4)] {
            let places = Placement::new(count);
            let many: Vec<_> = (0..100).map(|_| places.assign(Some(1))).collect();
            let mut on = threads(&many);
            on.sort();
            on.dedup();
            assert_eq!(on.len(), half, "of {count}");
            let other = places.assign(Some(2));
            assert!(count == 1 || !on.contains(&other.thread), "{on:?} and {}", other.thread);
        }
    }

    #[test]
    fn a_process_that_nobody_knows_is_on_all_of_them() {
        for unknown in [None, Some(0)] {
            let places = Placement::new(3);
            let many: Vec<_> = (0..6).map(|_| places.assign(unknown)).collect();
            assert_eq!(threads(&many), [0, 1, 2, 0, 1, 2]);
        }
    }

    #[test]
    fn nothing_is_kept_of_what_has_ended() {
        let places = Placement::new(4);
        let mut many: Vec<_> = (0..40).map(|i| places.assign(Some(i % 3))).collect();
        many.extend((0..5).map(|_| places.assign(None)));
        while let Some(place) = many.pop() {
            drop(place);
        }
        places.change(|taken| {
            assert_eq!((&taken.threads, taken.processes.len()), (&vec![0; 4], 0));
        });
    }
}

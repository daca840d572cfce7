//! Placement: the choice of the thread that serves a connection.
//!
//! Placement chooses the thread with the fewest connections. The connections of one process get at
//! most half of the threads: a process that overloads its threads leaves the others to other
//! processes, and the kernel shares time between threads more finely than this code could.
//!
//! The connections of unknown processes may use all threads. The kernel reports the pid 0 for every
//! process in a pid namespace that the daemon cannot see, so a pid of 0 may stand for several.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Assigns connections to threads. Clones share the assignments.
#[derive(Debug, Clone)]
pub(crate) struct Placement(Arc<Mutex<Assignments>>);

#[derive(Debug)]
struct Assignments {
    /// The number of connections of each thread.
    threads: Vec<usize>,
    /// For each process, its threads and the number of its connections on each.
    processes: HashMap<i32, HashMap<usize, usize>>,
}

/// The thread of a connection. Dropping the value unassigns the connection.
#[derive(Debug)]
pub(crate) struct Assignment {
    placement: Placement,
    /// The index of the thread.
    pub(crate) thread: usize,
    peer_pid: Option<i32>,
}

impl Placement {
    /// Assigns connections to `threads` threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self(Arc::new(Mutex::new(Assignments {
            threads: vec![0; threads],
            processes: HashMap::new(),
        })))
    }

    /// Assigns a connection of the process `peer_pid` to a thread.
    pub(crate) fn assign(&self, peer_pid: Option<i32>) -> Assignment {
        let peer_pid = peer_pid.filter(|pid| *pid > 0);
        let thread = self.change(|assignments| assignments.assign(peer_pid));
        Assignment { placement: self.clone(), thread, peer_pid }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Assignments) -> T) -> T {
        change(&mut self.0.lock())
    }
}

impl Assignments {
    fn assign(&mut self, peer_pid: Option<i32>) -> usize {
        let max_threads = (self.threads.len() / 2).max(1);
        let mut own = peer_pid.map(|pid| self.processes.entry(pid).or_default());
        let is_allowed = |thread: &usize| match &own {
            Some(own) => own.len() < max_threads || own.contains_key(thread),
            None => true,
        };
        let counts = self.threads.iter().enumerate().filter(|(thread, _)| is_allowed(thread));
        let thread = counts.min_by_key(|(_, count)| **count).map_or(0, |(thread, _)| thread);
        if let Some(own) = &mut own {
            *own.entry(thread).or_default() += 1;
        }
        if let Some(count) = self.threads.get_mut(thread) {
            *count += 1;
        }
        thread
    }

    fn unassign(&mut self, thread: usize, peer_pid: Option<i32>) {
        if let Some(count) = self.threads.get_mut(thread) {
            *count -= 1;
        }
        let Some((pid, own)) = peer_pid.and_then(|pid| Some((pid, self.processes.get_mut(&pid)?)))
        else {
            return;
        };
        if let Some(count) = own.get_mut(&thread) {
            *count -= 1;
            if *count == 0 {
                own.remove(&thread);
            }
        }
        if own.is_empty() {
            self.processes.remove(&pid);
        }
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.placement.change(|assignments| assignments.unassign(self.thread, self.peer_pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(places: &[Assignment]) -> Vec<usize> {
        places.iter().map(|place| place.thread).collect()
    }

    #[test]
    fn a_process_gets_half_of_the_threads_and_others_the_idlest() {
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
    fn an_unknown_process_gets_all_threads() {
        for unknown in [None, Some(0)] {
            let places = Placement::new(3);
            let many: Vec<_> = (0..6).map(|_| places.assign(unknown)).collect();
            assert_eq!(threads(&many), [0, 1, 2, 0, 1, 2]);
        }
    }

    #[test]
    fn an_ended_connection_leaves_no_entry() {
        let places = Placement::new(4);
        let mut many: Vec<_> = (0..40).map(|i| places.assign(Some(i % 3))).collect();
        many.extend((0..5).map(|_| places.assign(None)));
        while let Some(place) = many.pop() {
            drop(place);
        }
        places.change(|assignments| {
            assert_eq!((&assignments.threads, assignments.processes.len()), (&vec![0; 4], 0));
        });
    }
}

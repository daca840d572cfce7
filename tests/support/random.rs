//! Draws of test data from a generator whose seed repeats a run.

pub use fastrand::Rng;

pub trait Draw {
    /// True `percent` times of a hundred.
    fn chance(&mut self, percent: usize) -> bool;

    /// One of `from`.
    fn one<T: Clone>(&mut self, from: &[T]) -> T;
}

impl Draw for Rng {
    fn chance(&mut self, percent: usize) -> bool {
        self.usize(..100) < percent
    }

    fn one<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.usize(..from.len())].clone()
    }
}

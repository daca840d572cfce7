//! Any bytes as a data file: the verifier gives a verdict in bounded time, and its numbers add up.

use lmdb_verify::{Metas, State};

/// Returns whether the file is whole.
pub fn verify(file: &[u8]) -> bool {
    let verdict = Metas::read(file)
        .and_then(|metas| metas.live().cloned())
        .and_then(|meta| State::read(file, &meta).map(|state| (meta, state)));
    match verdict {
        Ok((meta, state)) => {
            assert_eq!(state.used + state.free + state.leaked + 2, meta.last_page + 1);
            assert_eq!(state.length, (meta.last_page + 1) * state.page_size as u64);
            assert_eq!(Ok(state), State::read_live(file));
            true
        }
        Err(damage) => {
            assert!(!damage.to_string().is_empty());
            false
        }
    }
}

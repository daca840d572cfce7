//! Linearizability: what clients, tools and recovered stores saw of a daemon that is killed again and again
//! is what one store would have shown that does one thing after the other.
//!
//! Clients on gRPC and ttrpc create, update, delete, get and list a few names. Meanwhile `ls`, `check`
//! and `backup` look at the files. Each call is recorded from its beginning to its end; a call that a kill
//! cut off may have been made or not. `recover` on a copy of a dead daemon's files is one more reader. A
//! checker then looks for an order of all calls that explains every answer.
//!
//! `LMDB_IMAGES_HISTORIES_KILLS` is how many daemons are killed (8), `LMDB_IMAGES_SEED` repeats the
//! choices of a run (not its timing). `scripts/soak/histories` runs it for long.

mod checker;
mod client;
mod model;
mod run;
mod tools;

use crate::support::settings::{seed, setting};

#[test]
fn histories_are_linearizable_across_kills() {
    let kills = setting("LMDB_IMAGES_HISTORIES_KILLS").unwrap_or(8);
    let figures = run::run(kills, seed());
    for violation in &figures.violations {
        println!("violation: {violation}");
    }
    println!("{figures}");
    assert!(figures.violations.is_empty(), "{} violations", figures.violations.len());
}

//! Numbers that the environment gives to the tests.

/// The variable of that name as a number; `None` if it is not set.
pub fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// `LMDB_IMAGES_SEED`, which repeats the choices of a run, or a new seed each time. It is printed.
pub fn seed() -> u64 {
    let seed = setting("LMDB_IMAGES_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LMDB_IMAGES_SEED={seed}");
    seed
}

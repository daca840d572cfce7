//! Holds a snapshot of a store until its standard input ends: a reader that forgot to let go, for
//! tests and for trying what the daemon and `lmdb-images stat` say of it.
//!
//! ```text
//! hold ROOT
//! ```

use std::error::Error;
use std::io::Write;

use lmdb_images::store::ReadOnlyStore;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: hold ROOT")?;
    let store = ReadOnlyStore::open(root.as_ref())?;
    store.read(|_| {
        println!("holding");
        // A script that waits for the word sees only that it does not come.
        let _ = std::io::stdout().flush();
        let _ = std::io::stdin().read_line(&mut String::new());
        Ok(())
    })?;
    Ok(())
}

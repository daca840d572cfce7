//! Prints what lies in a bucket of a bbolt file, which another process may be writing:
//!
//! ```text
//! print FILE [BUCKET...]
//! cargo run --example print -- /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db v1 default images
//! ```

use std::error::Error;

use bbolt_read::{LiveFile, Value};

/// Entries that are printed.
const MAX_ENTRIES: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((file, path)) = arguments.split_first() else {
        return Err("usage: print FILE [BUCKET...]".into());
    };
    let path: Vec<&[u8]> = path.iter().map(String::as_bytes).collect();
    let read = LiveFile::open(file)?.read(|snapshot| {
        let Some(bucket) = snapshot.bucket(&path)? else { return Ok(None) };
        let entries = snapshot.entries(&bucket).take(MAX_ENTRIES);
        Ok(Some(entries.collect::<Result<Vec<_>, _>>()?))
    })?;
    let entries = read.value.ok_or("there is no such bucket")?;
    println!("transaction {}", read.txid);
    for entry in entries {
        let key = entry.key.escape_ascii();
        match entry.value {
            Value::Bucket(_) => println!("{key}/"),
            Value::Bytes(bytes) => println!("{key} = {}", bytes.escape_ascii()),
        }
    }
    Ok(())
}

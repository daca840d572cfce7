//! Writes the manual pages, made of the command line itself, and the completions of shells:
//!
//! ```text
//! pages DIR      DIR/man/*.1 and DIR/completions/{lmdb-images.bash,_lmdb-images,lmdb-images.fish}
//! ```
//!
//! It is no part of the program, so that the program does not carry what only a package needs.

use std::path::PathBuf;
use std::{env, fs, io};

use lmdb_images::cli;

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: pages DIR"));
    };
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    // Folders that depend on the user are printed as this one has them; scripts/package is root.
    clap_mangen::generate_to(cli::command(), &man)?;
    // Those of `lmdb-images completion`: they know the names in the store, which clap's own scripts do not.
    for (shell, file) in
        [("bash", "lmdb-images.bash"), ("zsh", "_lmdb-images"), ("fish", "lmdb-images.fish")]
    {
        let script = cli::completion_script(shell).map_err(io::Error::other)?;
        fs::write(completions.join(file), script)?;
    }
    Ok(())
}

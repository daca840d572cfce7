//! Writes the manual pages and the completions of shells, made of the command line itself:
//!
//! ```text
//! pages DIR      DIR/man/*.1 and DIR/completions/{lmdb-images.bash,_lmdb-images,lmdb-images.fish}
//! ```
//!
//! It is no part of the program, so that the program does not carry what only a package needs.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap_complete::Shell;

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: pages DIR"));
    };
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    // Folders that depend on the user are printed as this one has them; scripts/package is root.
    clap_mangen::generate_to(lmdb_images::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        complete(shell, &completions)?;
    }
    Ok(())
}

fn complete(shell: Shell, dir: &Path) -> io::Result<()> {
    clap_complete::generate_to(shell, &mut lmdb_images::cli::command(), "lmdb-images", dir)?;
    Ok(())
}

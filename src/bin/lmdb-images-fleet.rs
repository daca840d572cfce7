//! The program `lmdb-images-fleet`, which `lmdb-images` starts for its commands `ship` and `fleet`.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lmdb_images::cli::fleet::main()
}

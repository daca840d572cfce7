//! The program `lmdb-images`. Its code is in the library, where tests reach it.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lmdb_images::cli::main()
}

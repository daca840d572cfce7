//! The program `lmdb-images`. All of it is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    lmdb_images::cli::main()
}

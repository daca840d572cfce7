//! Verifies an LMDB data file and prints its databases and pages: `check FILE`.

use std::fs::File;
use std::process::ExitCode;

use lmdb_verify::State;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: check FILE");
        return ExitCode::from(2);
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("opening {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    match State::read_live(&file) {
        Ok(state) => {
            println!("transaction {}, pages of {} bytes", state.transaction, state.page_size);
            println!("pages: {} used, {} free, {} leaked", state.used, state.free, state.leaked);
            for (name, database) in state.databases {
                println!("{:>9} entries in {name:?}", database.entries);
            }
            ExitCode::SUCCESS
        }
        Err(damage) => {
            eprintln!("{}: damaged: {damage}", path.display());
            ExitCode::FAILURE
        }
    }
}

//! Prints the texts in which a Go pattern is found: `match PATTERN TEXT...`.

use std::process::ExitCode;

use go_compat::quote::quote;
use go_compat::regexp::{SIZE_LIMIT, compile};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(pattern) = arguments.next() else {
        eprintln!("usage: match PATTERN TEXT...");
        return ExitCode::from(2);
    };
    match compile(pattern.as_bytes(), SIZE_LIMIT) {
        Ok(compiled) => {
            for text in arguments.filter(|text| compiled.matcher.is_match(text)) {
                println!("{}", quote(text));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error parsing regexp: {error}: {}", quote(pattern));
            ExitCode::FAILURE
        }
    }
}

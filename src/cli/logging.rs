//! What is logged, and how: lines for people, or a JSON object a line.
//!
//! A failure is logged once, where it becomes known, with the names it is about; never what a
//! client sent or got.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use clap::ValueEnum;
use log::{LevelFilter, Record};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::model::go::quote::quote;
use crate::model::printable::{escaped, one_line, shortened};
use crate::model::{Error, Result};
use crate::transport::ttrpc::server::PAYLOAD_LOG_TARGET;

/// The libraries' own lines are about clients that misbehave, which is nothing to act on; what is,
/// we log ourselves. A filter that names a library has it speak.
const LIBRARIES: &str = "ttrpc=off,h2=off,hyper=off";

/// A longer message is shortened in the middle.
const MAX_MESSAGE_CHARS: usize = 4000;

/// How the parts of this program begin.
const OURS: &str = "lmdb_images";

/// What is logged: a level, and others for parts of the program, as `RUST_LOG` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // RUST_LOG= is no wish for silence; "off" is.
        if text.is_empty() {
            return Ok(Self::default());
        }
        env_filter::Builder::new().try_parse(&text).map_err(|e| one_line(&e.to_string()))?;
        check_words(&text)?;
        Ok(Self(text))
    }
}

/// Refuses a filter that logs nothing because a word of it is misspelt: to the parser every word that is
/// no level is the name of some program's part.
fn check_words(text: &str) -> Result<(), String> {
    const HELP: &str = "begin with a level, which is error, warn, info, debug, trace or off, such as \
                        info,lmdb_images::front=debug";
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_ours = |word: &str| word == OURS || word.starts_with(&format!("{OURS}::"));
    let words = text.split('/').next().unwrap_or_default();
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut sets_ours = false;
    for word in words {
        let (part, has_level) =
            word.split_once('=').map_or((word, false), |(part, _)| (part, true));
        let is_global = !has_level && is_level(part);
        if !is_global && !is_ours(part) && !has_level {
            return Err(format!(
                "{} is neither a level nor a part of this program: {HELP}",
                quote(part)
            ));
        }
        sets_ours |= is_global || is_ours(part);
    }
    match sets_ours {
        true => Ok(()),
        false => Err(format!("{} logs nothing of this program: {HELP}", quote(text))),
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.0
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, with time, level and message
    Json,
}

/// Starts logging to stderr; once in a process.
pub fn start(filter: &Filter, format: Format) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&format!("{LIBRARIES},{filter}"));
    builder.filter_module(PAYLOAD_LOG_TARGET, LevelFilter::Off);
    // Nothing of a record reaches the log but through `message`. Times are written here: env_logger's
    // own panic when the clock is out of their years.
    builder.format(move |out, record| {
        let time = clock::display_time();
        match format {
            Format::Json => writeln!(out, "{}", json(&format!("{time:.3}"), record)),
            Format::Text => {
                let level = record.level();
                let style = out.default_level_style(level);
                writeln!(out, "[{time:.0} {style}{level:<5}{style:#}] {}", message(record))
            }
        }
    });
    builder.init();
}

/// Starts logging for an admin's command: by `RUST_LOG`, else warnings and worse.
pub fn start_for_command() -> Result<()> {
    let wrong = |e: String| Error::InvalidArgument(format!("RUST_LOG: {e}"));
    let filter = match std::env::var_os("RUST_LOG").filter(|text| !text.is_empty()) {
        None => "warn".to_owned(),
        Some(text) => text.into_string().map_err(|_| wrong("it is not UTF-8: unset it".into()))?,
    };
    let filter = filter.try_into().map_err(wrong)?;
    start(&filter, Format::Text);
    Ok(())
}

/// The object, its keys in the order in which people read them.
fn json(time: &str, record: &Record<'_>) -> String {
    #[derive(Serialize)]
    struct Line<'l> {
        time: &'l str,
        level: String,
        message: String,
    }
    let line = Line {
        time,
        level: record.level().as_str().to_lowercase(),
        message: shortened(&record.args().to_string(), MAX_MESSAGE_CHARS).into_owned(),
    };
    // Strings can be written always; a line must not be lost all the same.
    escaped(&serde_json::to_string(&line).unwrap_or(line.message)).into_owned()
}

/// The message of a record, as one line.
fn message(record: &Record<'_>) -> String {
    one_line(&record.args().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let message = format_args!("a \"name\"\nwith a line end\u{9b}");
        let line = json("now", &Record::builder().args(message).level(log::Level::Warn).build());
        assert_eq!(
            line,
            r#"{"time":"now","level":"warn","message":"a \"name\"\nwith a line end\u009b"}"#
        );
        let record = Record::builder().args(message).level(log::Level::Warn).build();
        assert_eq!(super::message(&record), r#"a "name"\nwith a line end\u009b"#);
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert_eq!("".parse::<Filter>().unwrap(), Filter::default());
        "info,lmdb_images::front=debug".parse::<Filter>().unwrap();
        for some in
            ["off", "WARN", "lmdb_images=debug", "lmdb_images::front", "info,h2=debug", "info/x"]
        {
            some.parse::<Filter>().unwrap_or_else(|e| panic!("{some}: {e}"));
        }
        for (none, told) in [
            ("info=loud", "loud"),
            ("loud", "\"loud\" is neither a level"),
            ("info,loud", "\"loud\" is neither a level"),
            ("inof", "\"inof\" is neither a level"),
            ("lmdb_image=debug", "logs nothing of this program"),
            (",", "logs nothing of this program"),
            ("/info", "logs nothing of this program"),
            ("lo\u{1b}ud", r#""lo\x1bud" is neither"#),
        ] {
            let error = none.parse::<Filter>().unwrap_err();
            assert!(error.contains(told), "{none}: {error}");
        }
    }
}

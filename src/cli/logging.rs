//! Logging: text lines or one JSON object per line.
//!
//! A failure is logged once, where it is detected, with the names that it concerns. Request and reply
//! bodies are never logged.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use clap::ValueEnum;
use go_compat::quote::quote;
use log::{LevelFilter, Record};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::model::printable::{escaped, one_line, shortened};
use crate::model::{Error, Result};
use crate::transport::ttrpc::server::PAYLOAD_LOG_TARGET;

/// Libraries are silent unless the filter names them: they log misbehaving clients, which need no action.
/// The program logs faults that need action itself.
const LIBRARIES: &str = "ttrpc=off,h2=off,hyper=off";

/// Length from which a message is shortened in the middle.
const MAX_MESSAGE_CHARS: usize = 4000;

/// Prefix of this program's log targets.
const OWN_TARGET: &str = "lmdb_images";

/// Parts of this program that a filter may name.
const PARTS: [&str; 16] = [
    "admin",
    "api",
    "cli",
    "clock",
    "containerd",
    "daemon",
    "fleet",
    "health",
    "limits",
    "log_throttle",
    "metrics",
    "model",
    "proxy",
    "service",
    "store",
    "transport",
];

/// Filter of log lines in the syntax of `RUST_LOG`: a level, and other levels for parts of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // An empty RUST_LOG means the default; "off" silences the log.
        if text.is_empty() {
            return Ok(Self::default());
        }
        env_filter::Builder::new().try_parse(&text).map_err(|e| one_line(&e.to_string()))?;
        check_words(&text)?;
        Ok(Self(text))
    }
}

/// Refuses a filter with a misspelt word. The parser takes every word that is not a level as the name of
/// a target, so a misspelt level would silence the log.
fn check_words(text: &str) -> Result<(), String> {
    const HELP: &str = "begin with a level, which is error, warn, info, debug, trace or off, such as \
                        info,lmdb_images::proxy=debug";
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_ours =
        |word: &str| match word.strip_prefix(OWN_TARGET).map(|rest| rest.strip_prefix("::")) {
            Some(Some(path)) => PARTS.contains(&path.split("::").next().unwrap_or_default()),
            _ => word == OWN_TARGET,
        };
    let words = text.split('/').next().unwrap_or_default();
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut sets_ours = false;
    for word in words {
        let (part, has_level) =
            word.split_once('=').map_or((word, false), |(part, _)| (part, true));
        let is_global = !has_level && is_level(part);
        let is_misspelt = part.starts_with(&format!("{OWN_TARGET}::")) && !is_ours(part);
        if is_misspelt || !is_global && !is_ours(part) && !has_level {
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

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, with time, level and message
    Json,
}

/// Starts logging to stderr. Must be called once per process.
pub(crate) fn start(filter: &Filter, format: Format) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&format!("{LIBRARIES},{filter}"));
    builder.filter_module(PAYLOAD_LOG_TARGET, LevelFilter::Off);
    // All text reaches the log through `message` or `json`, which escape it. Times are formatted here
    // because env_logger's own formatting panics when the clock is out of range.
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

/// Starts logging for an admin command: by `RUST_LOG`, else warnings and errors.
pub(crate) fn start_for_command() -> Result<()> {
    let wrong = |e: String| Error::InvalidArgument(format!("RUST_LOG: {e}"));
    let filter = match std::env::var_os("RUST_LOG").filter(|text| !text.is_empty()) {
        None => "warn".to_owned(),
        Some(text) => text.into_string().map_err(|_| wrong("it is not UTF-8: unset it".into()))?,
    };
    let filter = filter.try_into().map_err(wrong)?;
    start(&filter, Format::Text);
    Ok(())
}

/// Formats a record as a JSON object. The keys are in reading order.
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
    // Serializing strings cannot fail. If it did, the message would still be logged.
    escaped(&serde_json::to_string(&line).unwrap_or(line.message)).into_owned()
}

/// Formats the message of a record as one line.
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
    fn the_parts_are_those_of_the_library() {
        let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs"));
        let source = source.unwrap();
        let modules = source.lines().filter_map(|line| {
            let (_, name) = line.split_once("mod ").filter(|_| line.starts_with("pub"))?;
            name.strip_suffix(';')
        });
        assert!(modules.eq(PARTS));
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert_eq!("".parse::<Filter>().unwrap(), Filter::default());
        "info,lmdb_images::proxy=debug".parse::<Filter>().unwrap();
        for some in
            ["off", "WARN", "lmdb_images=debug", "lmdb_images::proxy", "info,h2=debug", "info/x"]
        {
            some.parse::<Filter>().unwrap_or_else(|e| panic!("{some}: {e}"));
        }
        for (none, expected) in [
            ("info=loud", "loud"),
            ("lmdb_images::nope=debug", "\"lmdb_images::nope\" is neither a level"),
            ("info,lmdb_images::nope", "\"lmdb_images::nope\" is neither a level"),
            ("loud", "\"loud\" is neither a level"),
            ("info,loud", "\"loud\" is neither a level"),
            ("inof", "\"inof\" is neither a level"),
            ("lmdb_image=debug", "logs nothing of this program"),
            (",", "logs nothing of this program"),
            ("/info", "logs nothing of this program"),
            ("lo\u{1b}ud", r#""lo\x1bud" is neither"#),
        ] {
            let error = none.parse::<Filter>().unwrap_err();
            assert!(error.contains(expected), "{none}: {error}");
        }
    }
}

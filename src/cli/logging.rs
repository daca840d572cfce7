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
use crate::model::{Error, Result};
use crate::transport::ttrpc::LOGS_MESSAGES;

/// The libraries' own lines are about clients that misbehave, which is nothing to act on; what is,
/// we log ourselves. A filter that names a library has it speak.
const LIBRARIES: &str = "ttrpc=off,h2=off,hyper=off";

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
        env_filter::Builder::new().try_parse(&text).map_err(|e| e.to_string())?;
        Ok(Self(text))
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
    builder.filter_module(LOGS_MESSAGES, LevelFilter::Off);
    // Times are written here: env_logger's own panic when the clock is out of their years.
    builder.format(move |out, record| {
        let time = clock::display_time();
        match format {
            Format::Json => writeln!(out, "{}", json(&format!("{time:.3}"), record)),
            Format::Text => {
                let style = out.default_level_style(record.level());
                let level = format!("{style}{:<5}{style:#}", record.level());
                writeln!(out, "{}", text(&format!("{time:.0}"), &level, record))
            }
        }
    });
    builder.init();
}

/// Starts logging for an admin's command: by `RUST_LOG`, else warnings and worse.
pub fn start_for_command() -> Result<()> {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = asked
        .unwrap_or_else(|| "warn".into())
        .try_into()
        .map_err(|e| Error::InvalidArgument(format!("RUST_LOG: {e}")))?;
    start(&filter, Format::Text);
    Ok(())
}

/// The line for people; what follows a line end in a message is indented.
fn text(time: &str, level: &str, record: &Record<'_>) -> String {
    let message = record.args().to_string().replace('\n', "\n    ");
    format!("[{time} {level}] {message}")
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
        message: record.args().to_string(),
    };
    // Strings can be written always; a line must not be lost all the same.
    serde_json::to_string(&line).unwrap_or(line.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_is_in_it() {
        let message = format_args!("a \"name\"\nwith a line end");
        let line = json("now", &Record::builder().args(message).level(log::Level::Warn).build());
        assert_eq!(
            line,
            r#"{"time":"now","level":"warn","message":"a \"name\"\nwith a line end"}"#
        );
    }

    #[test]
    fn a_line_for_people_begins_with_time_and_level() {
        let message = format_args!("one\ntwo");
        let line = text("now", "INFO ", &Record::builder().args(message).build());
        assert_eq!(line, "[now INFO ] one\n    two");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert_eq!("".parse::<Filter>().unwrap(), Filter::default());
        "info,lmdb_images::front=debug".parse::<Filter>().unwrap();
        "info=loud".parse::<Filter>().unwrap_err();
    }
}

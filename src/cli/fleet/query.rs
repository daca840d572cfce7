//! `lmdb-images fleet`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::certificates::CertificateArgs;
use super::collect::Collect;
use crate::cli::block_on;
use crate::cli::output::{Failure, note, print};
use crate::cli::text::{MAX_CELL_CHARS, cell, table};
use crate::fleet::questions::{QueryResult, Question};
use crate::fleet::schema;
use crate::fleet::target::Postgres;
use crate::model::{Error, Result};

/// Query the images of all nodes in the PostgreSQL that `lmdb-images ship` reports to
#[derive(Args)]
pub(crate) struct Fleet {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print or run the SQL that creates or updates the tables
    ///
    /// The SQL is one transaction, and a second run changes nothing. The role that runs the SQL needs
    /// CREATEROLE, and CREATE in the database.
    Schema {
        /// Run the SQL in this PostgreSQL instead of printing it: postgres://ROLE@HOST/DATABASE
        #[arg(long, value_name = "URL")]
        to: Option<String>,

        #[command(flatten)]
        certificates: CertificateArgs,
    },

    /// List all nodes
    Nodes(Source),

    /// List the nodes that have a digest, or an image of this name
    Where {
        /// A digest, the beginning of a digest such as sha256:ab12, or the name of an image
        #[arg(value_name = "DIGEST|NAME")]
        what: String,

        #[command(flatten)]
        source: Source,
    },

    /// List the changes on all nodes, the newest first
    Changes {
        /// List the changes of this last span of time, such as 1h, 90m or '2 days'
        #[arg(long, value_name = "TIME", default_value = "1h")]
        since: String,

        /// List only changes on this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,

        /// List only changes of this image name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,

        /// List at most this number of changes
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: i64,

        #[command(flatten)]
        source: Source,
    },

    /// List the nodes that have not reported for a while
    Stale(Source),

    /// List the nodes whose digest for a name differs from that of most nodes
    Drift {
        /// Name of an image
        name: String,

        #[command(flatten)]
        source: Source,
    },

    /// List incidents that need a person's attention: copied stores, rolled-back disks, lost changes
    Incidents(Source),

    Collect(Collect),
}

/// The database to ask.
#[derive(Args)]
struct Source {
    /// PostgreSQL server: postgres://ROLE@HOST/DATABASE
    #[arg(long, env = "LMDB_IMAGES_FLEET", value_name = "URL")]
    from: Option<String>,

    #[command(flatten)]
    certificates: CertificateArgs,

    /// Do not shorten long texts in the table
    #[arg(long)]
    no_trunc: bool,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl Fleet {
    /// Whether the command runs until it is stopped.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self.command, Command::Collect(_))
    }

    /// Asks, and prints the answer.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Schema { to: None, .. } => {
                print(|out| out.write_all(schema::script().as_bytes()))?;
            }
            Command::Schema { to: Some(url), certificates } => {
                let to = Postgres::parse(&url, certificates.into())?;
                block_on(schema::apply(&to))?;
                note("the schema fleet is up to date");
            }
            Command::Nodes(source) => source.ask(&Question::Nodes)?,
            Command::Where { what, source } => source.ask(&Question::locate(&what))?,
            Command::Changes { since, node, name, limit, source } => {
                source.ask(&Question::Changes { since, node, name, limit })?;
            }
            Command::Stale(source) => source.ask(&Question::Stale)?,
            Command::Drift { name, source } => source.ask(&Question::Drift(name))?,
            Command::Incidents(source) => source.ask(&Question::Incidents)?,
            Command::Collect(command) => command.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Source {
    fn ask(self, question: &Question) -> Result<(), Failure> {
        let url = self.from.ok_or_else(|| {
            Error::InvalidArgument(
                "no PostgreSQL server is named: give --from, or set LMDB_IMAGES_FLEET".into(),
            )
        })?;
        let from = Postgres::parse(&url, self.certificates.into())?;
        let found = block_on(question.ask(&from))?;
        let max = if self.no_trunc { usize::MAX } else { MAX_CELL_CHARS };
        print(|out| if self.json { lines(out, &found) } else { rows(out, &found, max) })
    }
}

fn lines(out: &mut dyn Write, found: &QueryResult) -> io::Result<()> {
    for row in &found.rows {
        let object: Map<_, _> = found.columns.iter().cloned().zip(row.iter().cloned()).collect();
        writeln!(out, "{}", Value::from(object))?;
    }
    Ok(())
}

fn rows(out: &mut dyn Write, found: &QueryResult, max: usize) -> io::Result<()> {
    if found.rows.is_empty() {
        return Ok(());
    }
    let head: Vec<_> = found.columns.iter().map(|c| c.replace('_', " ").to_uppercase()).collect();
    table(out, &head.join("\t"), |out| {
        for row in &found.rows {
            let cells: Vec<_> = row.iter().map(|value| json_cell(value, max)).collect();
            writeln!(out, "{}", cells.join("\t"))?;
        }
        Ok(())
    })
}

fn json_cell(value: &Value, max: usize) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => cell(text, max),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}

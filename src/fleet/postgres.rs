//! A connection to PostgreSQL, and reports to the function `fleet.report`.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::fleet::report::{Answer, NodeReport};
use crate::fleet::target::{Postgres, Server};
use crate::fleet::tls::{self, Certificates};
use crate::model::{Error, Result};

/// How long a report may take. The server ends a longer one too.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a server may take until the connection is ready. This includes TLS and the server's greeting, which
/// the library's own timeout for connecting does not include.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the server may take to answer a question, or to make the schema.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// An open connection. It is closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    io: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.io.abort();
    }
}

impl Connection {
    /// Connects to the first server that accepts the connection.
    ///
    /// # Errors
    /// `Unavailable` if every server refuses, or does not answer in time.
    pub(crate) async fn open(to: &Postgres) -> Result<Self> {
        let mut failures = Vec::new();
        // By itself the library tries the next server only if it cannot connect to this one.
        for server in &to.servers {
            let opened =
                with_timeout(OPEN_TIMEOUT, server, Self::open_at(server, &to.certificates)).await;
            match opened.and_then(|opened| opened) {
                Ok(connection) => return Ok(connection),
                Err(why) => failures.push(why),
            }
        }
        let said: Vec<_> = failures.iter().map(Error::message).collect();
        Err(match failures.as_slice() {
            [only] => only.clone(),
            _ => Error::Unavailable(said.join("; ")),
        })
    }

    async fn open_at(server: &Server, certificates: &Certificates) -> Result<Self> {
        let failed = |e: tokio_postgres::Error| failed(format_args!("connecting to {server}"), &e);
        if server.config.get_ssl_mode() == SslMode::Disable {
            let (client, io) = server.config.connect(NoTls).await.map_err(failed)?;
            return Ok(Self {
                client,
                io: tokio::spawn(async { drop(io.await) }.boxed()).abort_handle(),
            });
        }
        let tls = MakeRustlsConnect::new(tls::config(certificates)?);
        let (client, io) = server.config.connect(tls).await.map_err(failed)?;
        Ok(Self { client, io: tokio::spawn(async { drop(io.await) }.boxed()).abort_handle() })
    }

    /// Calls the server, and waits for at most [`ANSWER_TIMEOUT`]. `doing` is for the sentence of an error.
    pub(crate) async fn ask<'c, T, F>(
        &'c self,
        to: &Postgres,
        doing: fmt::Arguments<'_>,
        ask: impl FnOnce(&'c Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let asked = with_timeout(ANSWER_TIMEOUT, to, ask(&self.client)).await?;
        asked.map_err(|e| failed(doing, &e))
    }
}

/// Awaits a call for at most `time`.
async fn with_timeout<T>(
    time: Duration,
    to: &impl fmt::Display,
    call: impl Future<Output = T>,
) -> Result<T> {
    tokio::time::timeout(time, call).await.map_err(|_| {
        Error::Unavailable(format!(
            "{to} did not answer within {time:?}: is it a PostgreSQL, and does it run?"
        ))
    })
}

/// Reports to a PostgreSQL. It connects for the first report, and again after a failure.
#[derive(Debug)]
pub(crate) struct Reporter {
    to: Postgres,
    connection: Option<Connection>,
}

impl Reporter {
    /// Reports as the node that the role of `to` is.
    pub(crate) fn new(to: Postgres) -> Self {
        Self { to, connection: None }
    }

    /// Closes the connection until the next report, so that a server does not keep ten thousand idle connections.
    pub(crate) fn close(&mut self) {
        self.connection = None;
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Reports, and returns the answer. After an error it is unknown whether the server has taken the report.
    pub(crate) async fn send(&mut self, report: &NodeReport) -> Result<Answer> {
        let report = Json(report);
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&report, Type::JSONB)];
        let asked = self.ask("SELECT fleet.report($1)", &parameters).await;
        asked.map_err(|failure| match failure {
            ReportFailure::Refused(error) | ReportFailure::Other(error) => error,
        })
    }

    /// Forwards a report of a node, as the node sent it.
    pub(crate) async fn forward(
        &mut self,
        node: &str,
        report: &str,
    ) -> Result<Answer, ReportFailure> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&node, Type::TEXT), (&report, Type::TEXT)];
        self.ask("SELECT fleet.report_of($1, $2::text::jsonb)", &parameters).await
    }

    async fn ask(
        &mut self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Answer, ReportFailure> {
        let connection = match self.connection.take() {
            Some(connection) if !connection.client.is_closed() => connection,
            _ => Connection::open(&self.to).await?,
        };
        let asked = connection.client.query_typed(sql, parameters);
        let asked = with_timeout(REPORT_TIMEOUT, &self.to, asked).await?;
        let rows = match asked {
            Ok(rows) => rows,
            Err(e) => {
                let error = failed(format_args!("reporting to {}", self.to), &e);
                if !is_refusal(&e) {
                    return Err(ReportFailure::Other(error));
                }
                // The server has answered, so the connection still works.
                self.connection = Some(connection);
                return Err(ReportFailure::Refused(error));
            }
        };
        let row = rows.first().ok_or_else(|| Error::Internal("the report has no answer".into()))?;
        let answer: Json<Answer> =
            row.try_get(0).map_err(|e| failed(format_args!("the answer to a report"), &e))?;
        // Only a connection that works is kept.
        self.connection = Some(connection);
        Ok(answer.0)
    }
}

/// Why the server did not take a report.
#[derive(Debug)]
pub(crate) enum ReportFailure {
    /// The report is malformed, so another attempt fails too.
    Refused(Error),
    /// Another attempt may succeed.
    Other(Error),
}

impl From<Error> for ReportFailure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Whether the server says that the report is malformed: the classes "cardinality violation" (a row comes
/// twice), "data exception", "integrity constraint violation" (a field is missing), "feature not supported" and
/// "program limit exceeded".
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(|state| state.code());
    code.is_some_and(|code| {
        ["21", "22", "23", "0A", "54"].iter().any(|class| code.starts_with(class))
    })
}

/// The error of a failed call. It contains the server's message, which the library's text leaves out.
pub(crate) fn failed(doing: impl fmt::Display, error: &tokio_postgres::Error) -> Error {
    if let Some(said) = error.as_db_error() {
        let hint = match said.code().code() {
            "42883" | "3F000" | "42P01" => ": has `lmdb-images fleet schema --to` made the schema?",
            _ => "",
        };
        return Error::FailedPrecondition(format!("{doing}: {}{hint}", said.message()));
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let advice = tls::advice(error).map(|advice| format!(": {advice}"));
    let (cause, advice) = (cause.unwrap_or_default(), advice.unwrap_or_default());
    Error::Unavailable(format!("{doing}: {error}{cause}{advice}"))
}

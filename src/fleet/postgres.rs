//! A connection to PostgreSQL, and reports to the function `fleet.report`.

use std::fmt;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::fleet::report::{Answer, Report};
use crate::fleet::target::Postgres;
use crate::fleet::tls;
use crate::model::{Error, Result};

/// How long a report may take. The server ends what takes longer, too.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// An open connection. It is closed when dropped.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    io: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.io.abort();
    }
}

impl Connection {
    /// Connects.
    pub async fn open(to: &Postgres) -> Result<Self> {
        let failed = |e: tokio_postgres::Error| failed(format_args!("connecting to {to}"), &e);
        if to.config.get_ssl_mode() == SslMode::Disable {
            let (client, io) = to.config.connect(NoTls).await.map_err(failed)?;
            return Ok(Self { client, io: tokio::spawn(async { drop(io.await) }).abort_handle() });
        }
        let tls = MakeRustlsConnect::new(tls::config(&to.certificates)?);
        let (client, io) = to.config.connect(tls).await.map_err(failed)?;
        Ok(Self { client, io: tokio::spawn(async { drop(io.await) }).abort_handle() })
    }

    /// The client of the connection.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Reports to a PostgreSQL. It connects for the first report, and again after a failure.
#[derive(Debug)]
pub struct Reporter {
    to: Postgres,
    open: Option<Connection>,
}

impl Reporter {
    /// Reports as the node that the role of `to` is.
    pub fn new(to: Postgres) -> Self {
        Self { to, open: None }
    }

    /// Closes the connection until the next report: a server should not keep ten thousand that are idle.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// Whether there is no connection.
    pub fn is_resting(&self) -> bool {
        self.open.is_none()
    }

    /// Reports, and returns the answer. After an error the report may have been taken or not.
    pub async fn send(&mut self, report: &Report) -> Result<Answer> {
        let connection = match self.open.take() {
            Some(connection) if !connection.client.is_closed() => connection,
            _ => Connection::open(&self.to).await?,
        };
        let report = Json(report);
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&report, Type::JSONB)];
        let asked = connection.client.query_typed("SELECT fleet.report($1)", &parameters);
        let late = || Error::DeadlineExceeded(format!("{} did not answer in time", self.to));
        let rows = tokio::time::timeout(REPORT_TIMEOUT, asked).await.map_err(|_| late())?;
        let rows = rows.map_err(|e| failed(format_args!("reporting to {}", self.to), &e))?;
        let row = rows.first().ok_or_else(|| Error::Internal("the report has no answer".into()))?;
        let answer: Json<Answer> =
            row.try_get(0).map_err(|e| failed(format_args!("the answer to a report"), &e))?;
        // Only a connection that works is kept.
        self.open = Some(connection);
        Ok(answer.0)
    }
}

/// The error of a failed call. What the server said is in it; the library leaves that out.
pub fn failed(doing: impl fmt::Display, error: &tokio_postgres::Error) -> Error {
    if let Some(said) = error.as_db_error() {
        let hint = match said.code().code() {
            "42883" | "3F000" | "42P01" => ": has `lmdb-images fleet schema --to` made the schema?",
            _ => "",
        };
        return Error::FailedPrecondition(format!("{doing}: {}{hint}", said.message()));
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Error::Unavailable(format!("{doing}: {error}{}", cause.unwrap_or_default()))
}

//! The questions of `lmdb-images fleet`, as SQL over the views of the schema.

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::fleet::postgres::{Connection, failed};
use crate::fleet::target::Postgres;
use crate::model::{Error, Result};

/// A time in the form of RFC 3339, to the second.
macro_rules! at {
    ($column:literal) => {
        concat!(
            "to_char(",
            $column,
            " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS ",
            $column
        )
    };
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// All nodes.
    Nodes,
    /// The nodes that have not reported for a while.
    Stale,
    /// The nodes that have this digest, or a digest with this beginning.
    WhereDigest(String),
    /// The nodes that have a name.
    WhereName(String),
    /// The changes, newest first.
    Changes {
        /// The age of the oldest change, as an interval of PostgreSQL: `1h`, `2 days`.
        since: String,
        /// Only of this node.
        node: Option<String>,
        /// Only of this name.
        name: Option<String>,
        /// The most rows.
        limit: i64,
    },
    /// The nodes whose digest under a name differs from that of most nodes.
    Drift(String),
    /// The incidents, which a person should look at; newest first.
    Incidents,
}

impl Question {
    /// The question which nodes have `text`: as a digest, if it looks like a digest or its beginning, else as a name.
    pub(crate) fn locate(text: &str) -> Self {
        let is_digest = text.split_once(':').is_some_and(|(algorithm, hex)| {
            ["sha256", "sha384", "sha512"].contains(&algorithm)
                && hex.chars().all(|c| c.is_ascii_hexdigit())
        });
        if is_digest { Self::WhereDigest(text.into()) } else { Self::WhereName(text.into()) }
    }

    fn sql(&self) -> &'static str {
        match self {
            Self::Nodes => concat!(
                "SELECT name AS node, images, seq, behind, ",
                at!("seen"),
                ", is_stale AS stale, version, machine FROM fleet.nodes ORDER BY name"
            ),
            Self::Stale => concat!(
                "SELECT name AS node, ",
                at!("seen"),
                ", behind, machine FROM fleet.nodes WHERE is_stale ORDER BY nodes.seen"
            ),
            // Digits sort before the letter g, so this is all that begins with $1.
            Self::WhereDigest(_) => concat!(
                "SELECT node, namespace, name, digest, ",
                at!("since"),
                " FROM fleet.images WHERE digest >= $1 AND digest < $1 || 'g' ORDER BY node, namespace, name"
            ),
            Self::WhereName(_) => concat!(
                "SELECT node, namespace, name, digest, ",
                at!("since"),
                " FROM fleet.images WHERE name = $1 ORDER BY node, namespace"
            ),
            Self::Changes { .. } => concat!(
                "SELECT ",
                at!("at"),
                ", node, seq, namespace, name, kind, origin, before, after, uid, comm FROM fleet.changes \
                 WHERE at >= now() - $1::text::interval AND ($2::text IS NULL OR node = $2) \
                 AND ($3::text IS NULL OR name = $3) ORDER BY changes.at DESC, node, seq DESC LIMIT $4"
            ),
            Self::Drift(_) => concat!(
                "WITH has AS (SELECT * FROM fleet.images WHERE name = $1), \
                 usual AS (SELECT DISTINCT ON (namespace) namespace, digest FROM has \
                 GROUP BY namespace, digest ORDER BY namespace, count(*) DESC, max(since) DESC) \
                 SELECT node, namespace, name, has.digest, usual.digest AS most_have, ",
                at!("since"),
                " FROM has JOIN usual USING (namespace) WHERE has.digest <> usual.digest \
                 ORDER BY node, namespace"
            ),
            Self::Incidents => concat!(
                "SELECT ",
                at!("at"),
                ", node, kind, times, text FROM fleet.incidents ORDER BY incidents.at DESC LIMIT 1000"
            ),
        }
    }

    /// Asks a database.
    pub(crate) async fn ask(&self, from: &Postgres) -> Result<QueryResult> {
        let connection = Connection::open(from).await?;
        let limit;
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> = match self {
            Self::Nodes | Self::Stale | Self::Incidents => Vec::new(),
            Self::WhereDigest(text) | Self::WhereName(text) | Self::Drift(text) => {
                vec![(text, Type::TEXT)]
            }
            Self::Changes { since, node, name, limit: most } => {
                limit = *most;
                vec![
                    (since, Type::TEXT),
                    (node, Type::TEXT),
                    (name, Type::TEXT),
                    (&limit, Type::INT8),
                ]
            }
        };
        let rows = connection
            .ask(from, format_args!("asking {from}"), |client| {
                client.query_typed(self.sql(), &parameters)
            })
            .await?;
        let columns =
            rows.first().map(|row| row.columns().iter().map(|c| c.name().into()).collect());
        let cells: Result<_> = rows.iter().map(cells).collect();
        Ok(QueryResult { columns: columns.unwrap_or_default(), rows: cells? })
    }
}

/// The rows that answer a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueryResult {
    /// The names of the columns; none without rows.
    pub(crate) columns: Vec<String>,
    /// A value for each column.
    pub(crate) rows: Vec<Vec<Value>>,
}

fn cells(row: &Row) -> Result<Vec<Value>> {
    let wrong = |e: tokio_postgres::Error| failed(format_args!("reading a row"), &e);
    let mut cells = Vec::with_capacity(row.len());
    for (at, column) in row.columns().iter().enumerate() {
        let value = match *column.type_() {
            Type::INT2 => row.try_get::<_, Option<i16>>(at).map_err(wrong)?.into(),
            Type::INT4 => row.try_get::<_, Option<i32>>(at).map_err(wrong)?.into(),
            Type::INT8 => row.try_get::<_, Option<i64>>(at).map_err(wrong)?.into(),
            Type::BOOL => row.try_get::<_, Option<bool>>(at).map_err(wrong)?.into(),
            Type::TEXT => row.try_get::<_, Option<String>>(at).map_err(wrong)?.into(),
            ref other => {
                return Err(Error::Internal(format!("column {} is {other}", column.name())));
            }
        };
        cells.push(value);
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_or_its_prefix_is_distinguished_from_a_name() {
        for digest in ["sha256:", "sha256:ab12", "sha512:00ff"] {
            assert_eq!(Question::locate(digest), Question::WhereDigest(digest.into()));
        }
        for name in ["docker.io/library/a:1", "sha256:not-hex", "a@sha256:ab", "sha256"] {
            assert_eq!(Question::locate(name), Question::WhereName(name.into()));
        }
    }
}

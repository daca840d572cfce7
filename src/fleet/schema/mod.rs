//! The schema in PostgreSQL, as one script: roles, tables by version, functions.
//!
//! Tables are made by numbered steps, each once; functions, views and rights hold no data and are made anew
//! each time. The script is one transaction, and refuses a database with a step that it does not know.

use std::fmt::Write;

use crate::fleet::postgres::Connection;
use crate::fleet::target::Postgres;
use crate::model::Result;

/// The steps of the tables. A step that was released is never changed.
const TABLES: [&str; 1] = [include_str!("tables_1.sql")];

/// Functions, views and rights, in the order in which they need each other.
const FUNCTIONS: [&str; 4] = [
    include_str!("helpers.sql"),
    include_str!("housekeeping.sql"),
    include_str!("reports.sql"),
    include_str!("views.sql"),
];

/// Returns the script. Running it a second time changes nothing.
pub(crate) fn script() -> String {
    let mut script = String::new();
    script.push_str(include_str!("begin.sql"));
    script.push_str(include_str!("roles.sql"));
    script.push_str(include_str!("version.sql"));
    // Writing to a String cannot fail.
    let _ = write!(
        script,
        "DO $known$\nBEGIN\n    IF (SELECT max(version) > {0} FROM fleet.version) THEN\n        RAISE \
         EXCEPTION 'the schema fleet is of version %, and this lmdb-images knows versions up to {0}: use \
         the newer one', (SELECT max(version) FROM fleet.version);\n    END IF;\nEND\n$known$;\n",
        TABLES.len()
    );
    for (version, tables) in (1..).zip(TABLES) {
        let _ = write!(
            script,
            "DO $step$\nBEGIN\n    IF NOT EXISTS (SELECT FROM fleet.version WHERE version = {version}) \
             THEN\n        EXECUTE $tables$\n{tables}$tables$;\n        INSERT INTO fleet.version (version) \
             VALUES ({version});\n    END IF;\nEND\n$step$;\n",
        );
    }
    for part in FUNCTIONS {
        script.push_str(part);
    }
    script.push_str("COMMIT;\n");
    script
}

/// Runs the script in a database.
pub(crate) async fn apply(to: &Postgres) -> Result<()> {
    let connection = Connection::open(to).await?;
    let script = script();
    connection
        .ask(to, format_args!("making the schema in {to}"), |client| client.batch_execute(&script))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_quotes_each_step_whole() {
        for tables in TABLES {
            assert!(!tables.contains("$tables$") && !tables.contains("$step$"));
        }
        let script = script();
        assert!(script.starts_with("--") && script.trim_end().ends_with("COMMIT;"));
        assert_eq!(script.matches("$tables$").count(), 2 * TABLES.len());
    }
}

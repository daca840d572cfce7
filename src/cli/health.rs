//! `lmdb-images health`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::block_on;
use super::daemon_args::DaemonArgs;
use super::output::{Failure, print, report_error};
use crate::admin::health;
use crate::model::Error;

/// Ask a running daemon for its health
///
/// Calls grpc.health of the daemon. The daemon is SERVING if it can read and write its store. In front of a
/// containerd, containerd must also answer, and its events must arrive. Exits with 0 if the daemon is serving,
/// with 1 if it is not, and with 3 if it does not answer.
#[derive(Args)]
pub(crate) struct Health {
    #[command(flatten)]
    daemon: DaemonArgs,

    /// Repeat the call until the daemon is serving, for at most this time
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    wait: u64,

    /// Exit with 0 if the daemon answers, serving or not. A probe that restarts the daemon needs this: a
    /// restart helps only a daemon that does not answer
    #[arg(long, conflicts_with = "wait")]
    alive: bool,

    /// Print one JSON object: address, status, and error if the daemon does not answer
    #[arg(long)]
    json: bool,
}

impl Health {
    /// Calls the daemon, and prints its status.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let address = self.daemon.socket()?;
        let wait = Duration::from_secs(self.wait);
        let serving = block_on(async { Ok::<_, Error>(health::wait(&address, wait).await) })?;
        let (status, code) = match serving {
            Ok(true) => ("SERVING", ExitCode::SUCCESS),
            Ok(false) if self.alive => ("NOT_SERVING", ExitCode::SUCCESS),
            Ok(false) => ("NOT_SERVING", ExitCode::FAILURE),
            Err(_) => ("UNREACHABLE", ExitCode::from(3)),
        };
        let error = serving.err().map(|e| e.to_string());
        if self.json {
            let mut object = json!({ "address": address, "status": status });
            if let (Some(object), Some(error)) = (object.as_object_mut(), error) {
                object.insert("error".into(), error.into());
            }
            print(|out| writeln!(out, "{object}"))?;
        } else {
            if let Some(error) = error {
                report_error(format_args!("cannot call the daemon at {error}"));
            }
            print(|out| writeln!(out, "{status}"))?;
        }
        Ok(code)
    }
}

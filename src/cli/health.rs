//! `lmdb-images health`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::block_on;
use super::output::{Failure, print, report_error};
use super::paths::default_state;
use super::settings::File;
use crate::admin::health;

/// Ask a running daemon whether it can answer
///
/// It asks grpc.health of the daemon: SERVING when its store can be read and written and, in front of
/// a containerd, containerd answers and its events come in. Exits with 0 when it is serving, 1 when
/// it is not, and 3 when nobody answers.
#[derive(Args)]
pub struct Health {
    #[command(flatten)]
    file: File,

    /// A gRPC socket of the daemon [default: images.sock in its folder of sockets]
    #[arg(long, short, env = "LMDB_IMAGES_ADDRESS", value_name = "SOCKET")]
    address: Option<PathBuf>,

    /// Folder of the sockets [default: the daemon's, by its file of settings]
    #[arg(long, env = "LMDB_IMAGES_STATE", value_name = "DIR")]
    state: Option<PathBuf>,

    /// Ask again until it is serving, for so long: for scripts that have just started it
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    wait: u64,

    /// One JSON object: address, status, and error if nobody answers
    #[arg(long)]
    json: bool,
}

impl Health {
    /// Asks, and prints the answer.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let address = match (self.address, self.state) {
            (Some(address), _) => address,
            (None, Some(state)) => state.join("images.sock"),
            (None, None) => {
                self.file.read()?.state.unwrap_or_else(default_state).join("images.sock")
            }
        };
        let asked =
            block_on(async { Ok(health::wait(&address, Duration::from_secs(self.wait)).await) })?;
        let (status, code) = match asked {
            Ok(true) => ("SERVING", ExitCode::SUCCESS),
            Ok(false) => ("NOT_SERVING", ExitCode::FAILURE),
            Err(_) => ("UNREACHABLE", ExitCode::from(3)),
        };
        let error = asked.err().map(|e| e.to_string());
        if self.json {
            let mut object = json!({ "address": address, "status": status });
            if let (Some(object), Some(error)) = (object.as_object_mut(), error) {
                object.insert("error".into(), error.into());
            }
            print(|out| writeln!(out, "{object}"))?;
        } else {
            if let Some(error) = error {
                report_error(error);
            }
            print(|out| writeln!(out, "{status}"))?;
        }
        Ok(code)
    }
}

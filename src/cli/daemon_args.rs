//! Argument for the daemon that a command calls.

use std::path::PathBuf;

use clap::Args;

use super::paths::default_state;
use super::settings_file::File;
use crate::admin::catalog::Daemon;
use crate::model::Result;

/// Argument for the daemon.
#[derive(Args)]
pub(crate) struct DaemonArgs {
    #[command(flatten)]
    pub(crate) file: File,

    /// gRPC socket of the daemon [default: images.sock in its folder of sockets]
    #[arg(long, short, env = "LMDB_IMAGES_ADDRESS", value_name = "SOCKET")]
    pub(crate) address: Option<PathBuf>,

    /// Folder of the sockets [default: the daemon's, by its file of settings]
    #[arg(long, env = "LMDB_IMAGES_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

impl DaemonArgs {
    /// Returns the socket, from the arguments, the settings file or the default.
    pub(crate) fn socket(&self) -> Result<PathBuf> {
        self.file.check_flag()?;
        Ok(match (&self.address, &self.state) {
            (Some(address), _) => address.clone(),
            (None, Some(state)) => state.join("images.sock"),
            (None, None) => {
                self.file.read()?.state.unwrap_or_else(default_state).join("images.sock")
            }
        })
    }

    /// Returns the daemon.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        Ok(Daemon::at(self.socket()?))
    }
}

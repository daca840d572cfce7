//! The configuration of a daemon. It is checked before anything is opened: by a starting daemon and by
//! `lmdb-images config check`.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::metrics::Address;
use super::sockets::{
    CONTAINERD_SOCK, IMAGES_SOCK, MAX_PATH_BYTES, READONLY_SOCK, SOCKETS, TTRPC_SOCK,
    UpstreamSocket,
};
use crate::model::{Error, Result};
use crate::store::Retention;
use crate::transport::Limits;

/// Configuration of a daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the store.
    pub root: PathBuf,
    /// Folder of the sockets.
    pub state: PathBuf,
    /// Socket of the upstream containerd, in proxy mode.
    pub containerd: Option<PathBuf>,
    /// Group that may connect to the sockets; `None` for the group of the process.
    pub gid: Option<u32>,
    /// Whether the daemon opens a read-only socket.
    pub readonly: bool,
    /// Group that may connect to the read-only socket; `None` for the group of the process.
    pub readonly_gid: Option<u32>,
    /// Address at which metrics are served, if any.
    pub metrics: Option<Address>,
    /// Limits on connections, calls and their memory.
    pub limits: Limits,
    /// Memory in bytes for large replies in flight.
    pub reply_budget: u32,
    /// How much of the log of changes is kept.
    pub log_keep: Retention,
    /// How long content is kept for an undo, in front of a containerd.
    pub undo_keep: Option<Duration>,
}

/// A wrong setting: its key, and the error.
pub(crate) type WrongSetting = (&'static str, Error);

impl Config {
    /// Checks everything that does not depend on other processes or on permissions.
    ///
    /// # Errors
    /// The first wrong setting.
    pub(crate) fn check(&self) -> Result<(), WrongSetting> {
        let at = |key| move |e| (key, e);
        check_folder(&self.root).map_err(at("root"))?;
        check_folder(&self.state).map_err(at("state"))?;
        if absolute(&self.root) == absolute(&self.state) {
            return Err(at("state")(Error::InvalidArgument(format!(
                "{} is the folder of the store, too: choose another for the sockets",
                self.state.display()
            ))));
        }
        for name in SOCKETS {
            check_length(&self.state.join(name), "a shorter folder").map_err(at("state"))?;
        }
        let wanted = [
            (IMAGES_SOCK, true),
            (TTRPC_SOCK, true),
            (CONTAINERD_SOCK, self.containerd.is_some()),
            (READONLY_SOCK, self.readonly),
        ];
        for (name, _) in wanted.into_iter().filter(|(_, is_wanted)| *is_wanted) {
            check_socket(&self.state.join(name)).map_err(at("state"))?;
        }
        if let Some(containerd) = &self.containerd {
            check_text(containerd).map_err(at("containerd"))?;
            check_length(containerd, "a shorter path").map_err(at("containerd"))?;
            UpstreamSocket::inspect(containerd, &self.state).map_err(at("containerd"))?;
        }
        if let Some(Address::Unix(path)) = &self.metrics {
            let at = at("metrics_address");
            check_text(path).map_err(at)?;
            check_length(path, "a shorter path").map_err(at)?;
            check_socket(path).map_err(at)?;
            path.parent().map_or(Ok(()), check_folder).map_err(at)?;
            self.check_not_own_socket(path).map_err(at)?;
        }
        Ok(())
    }

    /// Refuses a metrics path that one of the daemon's own sockets uses or would use.
    fn check_not_own_socket(&self, metrics: &Path) -> Result<()> {
        if SOCKETS.iter().any(|name| absolute(&self.state.join(name)) == absolute(metrics)) {
            return Err(Error::InvalidArgument(format!(
                "{} is the path of one of the daemon's own sockets: choose another for the metrics, such \
                 as {}",
                metrics.display(),
                metrics.with_file_name("metrics.sock").display()
            )));
        }
        Ok(())
    }
}

/// Returns the path with its folder resolved: without symbolic links and dots.
fn absolute(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        // The folder does not exist yet, so only its spelling can be compared.
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

fn check_text(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Error::InvalidArgument("the path is empty: give one, or leave it out".into()));
    }
    if bytes.contains(&0) {
        return Err(Error::InvalidArgument(format!(
            "the path {} has a zero byte in it, which no path can have: take it out",
            path.display()
        )));
    }
    Ok(())
}

/// Refuses a path if it, or an ancestor of it, is something other than a folder.
fn check_folder(path: &Path) -> Result<()> {
    check_text(path)?;
    for part in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        match part.metadata() {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => {
                return Err(Error::InvalidArgument(format!(
                    "{} exists and is not a folder: choose another path",
                    part.display()
                )));
            }
            Err(e) if e.raw_os_error() == Some(nix::libc::ENAMETOOLONG) => {
                return Err(Error::InvalidArgument(format!(
                    "the path {} is longer than the system allows: choose a shorter one",
                    path.display()
                )));
            }
            Err(_) if part.is_symlink() => {
                return Err(Error::InvalidArgument(format!(
                    "{} is a link that leads to no folder: mend it, or choose another path",
                    part.display()
                )));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Refuses the path of a socket where something else is.
fn check_socket(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if !found.file_type().is_socket() => Err(Error::InvalidArgument(format!(
            "{} exists and is not a socket: move it away, or choose another path",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn check_length(socket: &Path, what: &str) -> Result<()> {
    let length = socket.as_os_str().as_bytes().len();
    if length > MAX_PATH_BYTES {
        return Err(Error::InvalidArgument(format!(
            "the socket path {} has {length} bytes, the system allows {MAX_PATH_BYTES}: choose {what}",
            socket.display()
        )));
    }
    Ok(())
}

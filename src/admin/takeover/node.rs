//! The state of this machine: containerd's service, its sockets, our service.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::layout::{ADDRESS, CONTAINERD_UNIT, OUR_UNIT, TTRPC_SUFFIX};
use super::systemd::{Systemd, property};
use super::unit;
use crate::model::{Error, Result};

/// Owner and mode of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// The permission bits.
    pub(crate) mode: u32,
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:04o}, user {} and group {}", self.mode, self.uid, self.gid)
    }
}

/// The state of the machine before a takeover, as far as the takeover changes it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// containerd's command, as its unit has it.
    pub(crate) command: String,
    /// Owner and mode of containerd's socket.
    pub(crate) owner: SocketOwner,
    /// Owner and mode of containerd's socket for ttrpc.
    pub(crate) ttrpc_owner: SocketOwner,
    /// Whether our service runs.
    pub(crate) service_was_active: bool,
    /// Units that systemd restarts with containerd.
    pub(crate) restarted_too: Vec<String>,
}

impl Node {
    /// Looks at the machine. containerd has its own address.
    ///
    /// # Errors
    /// `FailedPrecondition` if containerd's service does not run, or not on that address.
    pub(crate) fn inspect(systemd: &mut dyn Systemd) -> Result<Self> {
        if property(systemd, CONTAINERD_UNIT, "ActiveState")? != "active" {
            return Err(stop(format!(
                "{CONTAINERD_UNIT} is not active: start it, `systemctl start {CONTAINERD_UNIT}`"
            )));
        }
        if !systemd.containerd_listens(ADDRESS)? {
            return Err(stop(format!(
                "the process of {CONTAINERD_UNIT} does not listen on {ADDRESS}, so its clients have another \
                 address: only that one can be taken over"
            )));
        }
        let text = systemd.systemctl(&["cat", CONTAINERD_UNIT])?;
        let command = unit::command(&text).map_err(stop)?;
        unit::check_containerd(&command).map_err(stop)?;
        let owner = socket_owner(ADDRESS)?;
        let ttrpc_owner =
            socket_owner(&format!("{ADDRESS}{TTRPC_SUFFIX}")).unwrap_or_else(|_| owner.clone());
        let restarted_too = restarted_with_containerd(systemd)?;
        let service_was_active = property(systemd, OUR_UNIT, "ActiveState")? == "active";
        Ok(Self { command, owner, ttrpc_owner, service_was_active, restarted_too })
    }
}

/// Units that systemd restarts with containerd, if they are active.
pub(crate) fn restarted_with_containerd(systemd: &mut dyn Systemd) -> Result<Vec<String>> {
    let mut restarted = Vec::new();
    for relation in ["RequiredBy", "BoundBy", "ConsistsOf"] {
        let units = property(systemd, CONTAINERD_UNIT, relation)?;
        restarted.extend(units.split_whitespace().map(str::to_owned));
    }
    restarted.sort();
    restarted.dedup();
    Ok(restarted)
}

fn stop(why: String) -> Error {
    Error::FailedPrecondition(why)
}

/// Looks at a socket.
///
/// # Errors
/// `FailedPrecondition` if the path is not that of a socket.
pub(crate) fn socket_owner(path: &str) -> Result<SocketOwner> {
    let found = Path::new(path).symlink_metadata();
    let found = found.map_err(|e| Error::Internal(format!("looking at {path}: {e}")))?;
    if !found.file_type().is_socket() {
        return Err(stop(format!("{path} is not a socket: remove it and restart containerd")));
    }
    Ok(SocketOwner { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o777 })
}

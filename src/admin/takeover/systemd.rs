//! The interface of a takeover to systemd: the program `systemctl`.

use std::process::{Command, Stdio};

use super::layout::CONTAINERD_UNIT;
use super::listening;
use crate::model::printable::one_line;
use crate::model::{Error, Result};

/// The interface of the steps to systemd and to the processes that it runs.
pub(crate) trait Systemd {
    /// Runs `systemctl` with these arguments, and returns what it prints.
    fn systemctl(&mut self, arguments: &[&str]) -> Result<String>;

    /// Returns whether containerd's process listens on the Unix socket of that path.
    fn containerd_listens(&mut self, path: &str) -> Result<bool>;

    /// Returns whether a shim runs that sends its events to the address while the daemon had it.
    fn has_shims_of_takeover(&mut self) -> Result<bool>;
}

/// A property of a unit.
pub(crate) fn property(
    systemd: &mut (impl Systemd + ?Sized),
    unit: &str,
    name: &str,
) -> Result<String> {
    let shown = systemd.systemctl(&["show", "--value", "--property", name, unit])?;
    Ok(shown.trim().to_owned())
}

/// The systemd of this machine.
#[derive(Debug)]
pub(crate) struct Systemctl;

impl Systemd for Systemctl {
    fn systemctl(&mut self, arguments: &[&str]) -> Result<String> {
        let shown = arguments.join(" ");
        let mut command = Command::new("systemctl");
        command.args(["--no-ask-password", "--no-pager"]).args(arguments);
        let done = command.stdin(Stdio::null()).output().map_err(|e| {
            Error::Internal(format!("running systemctl: {e}: is this a machine with systemd?"))
        })?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            let said = one_line(said.trim());
            return Err(Error::Internal(format!("systemctl {shown}: {}: {said}", done.status)));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn containerd_listens(&mut self, path: &str) -> Result<bool> {
        let pid = property(self, CONTAINERD_UNIT, "MainPID")?;
        listening::listens(pid.parse().unwrap_or_default(), path)
    }

    fn has_shims_of_takeover(&mut self) -> Result<bool> {
        super::shims::any_running()
    }
}

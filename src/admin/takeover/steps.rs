//! Does one step of a plan.

use std::os::unix::fs::symlink;

use super::disk::{failed, remove_file, write_file};
use super::layout::{
    ADDRESS, CONTAINERD_UNIT, Files, SOCKET_UNIT, TTRPC_SUFFIX, TTRPC_UNIT, UPSTREAM,
};
use super::plan::TakeoverStep;
use super::record::TakeoverRecord;
use super::systemd::{Systemd, property};
use crate::model::{Error, Result};

/// Does steps.
pub(crate) struct Runner<'r> {
    /// The files of a takeover.
    pub(crate) files: &'r Files,
    /// The systemd of the machine.
    pub(crate) systemd: &'r mut dyn Systemd,
}

impl Runner<'_> {
    /// Does a step.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub(crate) fn run(&mut self, step: &TakeoverStep) -> Result<()> {
        match step {
            TakeoverStep::Note(phase, was_active) => {
                TakeoverRecord::write(self.files, *phase, *was_active)
            }
            TakeoverStep::Write(path, text) => write_file(path, text),
            TakeoverStep::Remove(path) => remove_file(path),
            TakeoverStep::Systemctl(arguments) => self.systemd.systemctl(arguments).map(drop),
            TakeoverStep::SystemctlIfLoaded(verb, units) => self.systemctl_if_loaded(verb, units),
            TakeoverStep::Disable => self.disable(),
            TakeoverStep::Listen => self.listen(),
            TakeoverStep::RestartUnlessListening => self.restart_unless_home(),
            TakeoverStep::LinkShims => self.link_shims(),
        }
    }

    fn systemctl_if_loaded(&mut self, verb: &str, units: &[&str]) -> Result<()> {
        let mut arguments = vec![verb];
        for unit in units {
            if property(self.systemd, unit, "LoadState")? != "not-found" {
                arguments.push(unit);
            }
        }
        if arguments.len() == 1 { Ok(()) } else { self.systemd.systemctl(&arguments).map(drop) }
    }

    /// systemctl disables no unit without a file. A release that was interrupted has removed the files, and systemd
    /// may know the units still.
    fn disable(&mut self) -> Result<()> {
        let sockets = [(SOCKET_UNIT, &self.files.socket), (TTRPC_UNIT, &self.files.ttrpc)];
        let there = sockets.into_iter().filter(|(_, file)| file.exists()).map(|(unit, _)| unit);
        let mut arguments = vec!["disable"];
        arguments.extend(there);
        if arguments.len() == 1 { Ok(()) } else { self.systemd.systemctl(&arguments).map(drop) }
    }

    /// systemd takes a path even from a socket that another process listens on. So this looks first.
    fn listen(&mut self) -> Result<()> {
        if self.systemd.containerd_listens(ADDRESS)? {
            return Err(Error::FailedPrecondition(format!(
                "containerd listens on {ADDRESS} still, although its unit has --address {UPSTREAM} now"
            )));
        }
        // A containerd whose settings name its address for ttrpc keeps it, and shims have it as before.
        if self.systemd.containerd_listens(&format!("{ADDRESS}{TTRPC_SUFFIX}"))? {
            self.systemd.systemctl(&["disable", TTRPC_UNIT])?;
            remove_file(&self.files.ttrpc)?;
            self.systemd.systemctl(&["daemon-reload"])?;
            return self.systemd.systemctl(&["start", SOCKET_UNIT]).map(drop);
        }
        self.systemd.systemctl(&["start", SOCKET_UNIT, TTRPC_UNIT]).map(drop)
    }

    fn restart_unless_home(&mut self) -> Result<()> {
        if !self.systemd.containerd_listens(ADDRESS)? {
            self.systemd.systemctl(&["restart", CONTAINERD_UNIT])?;
        }
        if self.systemd.containerd_listens(ADDRESS)? {
            return Ok(());
        }
        Err(Error::FailedPrecondition(format!(
            "containerd does not listen on {ADDRESS}: look at `systemctl status {CONTAINERD_UNIT}`, then run \
             `lmdb-images release` again"
        )))
    }

    /// A shim keeps the address that containerd had when the shim was started, and sends its events there.
    fn link_shims(&mut self) -> Result<()> {
        let wanted = self.systemd.has_shims_of_takeover()?;
        let name = |path: &'static str| path.rsplit('/').next().unwrap_or_default();
        for end in ["", TTRPC_SUFFIX] {
            let link = self.files.run.join(format!("{}{end}", name(UPSTREAM)));
            remove_file(&link)?;
            if wanted {
                let target = format!("{}{end}", name(ADDRESS));
                symlink(target, &link).map_err(|e| failed("linking", &link, &e))?;
            }
        }
        Ok(())
    }
}

//! The commands by which systemd runs clients of containerd: their flags count before their files of settings.

use std::io::Read;
use std::path::Path;

use super::layout::{DOCKER_UNIT, KUBELET_UNIT};
use super::settings::{last_value_after, words};
use super::systemd::{Systemd, property};
use super::unit;
use crate::admin::file;

/// Bytes that are read of the command of a process. The kernel's own limit is 2 MiB.
const MAX_COMMAND_BYTES: u64 = 2 << 20;

/// The commands of the clients that have a unit.
#[derive(Debug, Default)]
pub(crate) struct ClientCommands {
    pub(crate) dockerd: Option<ClientCommand>,
    pub(crate) kubelet: Option<ClientCommand>,
}

impl ClientCommands {
    /// The commands on this machine.
    pub(crate) fn of_machine(systemd: &mut impl Systemd) -> Self {
        Self {
            dockerd: ClientCommand::of_unit(systemd, DOCKER_UNIT),
            kubelet: ClientCommand::of_unit(systemd, KUBELET_UNIT),
        }
    }
}

/// The command of a client.
#[derive(Debug)]
pub(crate) struct ClientCommand {
    words: Vec<String>,
    /// Whether it is that of a process, in which systemd has replaced variables by their values.
    pub(crate) is_running: bool,
}

impl ClientCommand {
    /// The command of the unit's process, or that in the unit's text if it does not run. `None` without such a unit.
    fn of_unit(systemd: &mut impl Systemd, unit: &str) -> Option<Self> {
        let pid = property(systemd, unit, "MainPID").ok()?.parse().unwrap_or_default();
        if let Some(command) = Self::of_process(pid) {
            return Some(command);
        }
        let text = systemd.systemctl(&["cat", unit]).ok()?;
        Some(Self::of_text(&unit::command(&text).ok()?))
    }

    /// The command of a process.
    pub(crate) fn of_process(pid: u32) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = file::open_to_read(Path::new(&format!("/proc/{pid}/cmdline"))).ok()?;
        file.take(MAX_COMMAND_BYTES).read_to_end(&mut bytes).ok()?;
        let mut words = Vec::new();
        for argument in String::from_utf8_lossy(&bytes).split('\0') {
            match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with('-') => {
                    words.extend([flag, value].map(str::to_owned))
                }
                _ => words.push(argument.to_owned()),
            }
        }
        // A process that has ended has an empty command.
        words.iter().any(|word| !word.is_empty()).then_some(Self { words, is_running: true })
    }

    /// The command in the text of a unit.
    pub(crate) fn of_text(text: &str) -> Self {
        let words = words(text).into_iter().map(str::to_owned).collect();
        Self { words, is_running: false }
    }

    /// The value of a flag. A variable of systemd's is not known.
    pub(crate) fn value(&self, flag: &str) -> Option<String> {
        last_value_after(&self.words, flag).filter(|value| !value.starts_with('$'))
    }

    /// Whether the command has a flag that can be on or off, and has it on.
    pub(crate) fn is_on(&self, flag: &str) -> bool {
        /// The values that Go's `strconv.ParseBool` reads as false.
        const GO_FALSE: [&str; 6] = ["0", "f", "F", "false", "False", "FALSE"];
        self.words.iter().rposition(|word| word == flag).is_some_and(|at| {
            !self.words.get(at + 1).is_some_and(|value| GO_FALSE.contains(&value.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_last_value_of_a_flag_counts() {
        let command = ClientCommand::of_text("/usr/bin/kubelet --a=1 --a 2 --b=$X --c '/d e'");
        assert_eq!(command.value("--a").as_deref(), Some("2"));
        assert_eq!(command.value("--b"), None, "a variable");
        assert_eq!(command.value("--e"), None);
        assert!(!command.is_running);
        let is_on = |text| ClientCommand::of_text(text).is_on("--live-restore");
        assert!(is_on("dockerd --live-restore=false --live-restore -D"));
        assert!(!is_on("dockerd --live-restore --live-restore=f"));
    }

    #[test]
    fn the_command_of_a_process_is_read_exactly() {
        let mut process = Command::new("sh")
            .args([
                "-c",
                "echo started; read line",
                "kubelet",
                "--endpoint=unix:///a b.sock?x=1",
                "--live-restore",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel has the arguments a moment after it has begun to execute the program.
        process.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
        let command = ClientCommand::of_process(process.id());
        process.kill().unwrap();
        process.wait().unwrap();
        let command = command.unwrap();
        assert_eq!(command.value("--endpoint").as_deref(), Some("unix:///a b.sock?x=1"));
        assert!(command.is_running && command.is_on("--live-restore"));
        assert!(ClientCommand::of_process(0).is_none());
    }
}

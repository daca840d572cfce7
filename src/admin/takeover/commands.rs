//! The commands by which systemd runs clients of containerd: their flags count before their files of settings.

use std::io::Read;
use std::path::Path;

use go_compat::quote::quote;

use super::layout::{DOCKER_UNIT, KUBELET_UNIT};
use super::settings::{arguments, last_value};
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
            dockerd: ClientCommand::of_unit(systemd, DOCKER_UNIT, "dockerd"),
            kubelet: ClientCommand::of_unit(systemd, KUBELET_UNIT, "kubelet"),
        }
    }
}

/// The command of a client.
#[derive(Debug)]
pub(crate) struct ClientCommand {
    arguments: Vec<String>,
    /// Whether it is that of a process, in which systemd has replaced variables by their values.
    pub(crate) is_running: bool,
}

impl ClientCommand {
    /// The command of the unit's process if that is the program, or else the one in the unit's text. `None` without such a
    /// unit.
    fn of_unit(systemd: &mut impl Systemd, unit: &str, program: &str) -> Option<Self> {
        let pid = property(systemd, unit, "MainPID").ok()?.parse().unwrap_or_default();
        // A script may be the unit's process, and start the program.
        if let Some(command) = Self::of_process(pid).filter(|command| command.runs(program)) {
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
        // A process that has ended has an empty command.
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\0")?).into_owned();
        let arguments = text.split('\0').map(str::to_owned).collect();
        Some(Self { arguments, is_running: true })
    }

    /// The command in the text of a unit.
    pub(crate) fn of_text(text: &str) -> Self {
        Self { arguments: arguments(text), is_running: false }
    }

    fn runs(&self, program: &str) -> bool {
        let path = self.arguments.first().map(Path::new);
        path.and_then(Path::file_name).is_some_and(|name| name == program)
    }

    /// The value of a flag; `None` without the flag, or if its value is empty.
    ///
    /// # Errors
    /// If the value has a variable, which only systemd can replace.
    pub(crate) fn value(&self, flag: &str) -> Result<Option<&str>, String> {
        let value = last_value(&self.arguments, flag).filter(|value| !value.is_empty());
        match value {
            Some(value) if !self.is_running && value.contains('$') => {
                Err(format!("its {flag} is {}, and it does not run", quote(value)))
            }
            value => Ok(value),
        }
    }

    /// Whether the command has a flag that can be on or off, and has it on.
    pub(crate) fn is_on(&self, flag: &str) -> bool {
        /// The values that Go's `strconv.ParseBool` reads as false.
        const GO_FALSE: [&str; 6] = ["0", "f", "F", "false", "False", "FALSE"];
        let mut values = self.arguments.iter().rev().filter_map(|word| word.strip_prefix(flag));
        let value = values.find(|rest| rest.is_empty() || rest.starts_with('='));
        value.is_some_and(|rest| !GO_FALSE.contains(&rest.trim_start_matches('=')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_last_value_of_a_flag_counts() {
        let command = ClientCommand::of_text(
            "/usr/bin/kubelet --a=1 --a 2=3 --b=/x/$X --c '/d e' --e= -H fd://",
        );
        assert_eq!(command.value("--a"), Ok(Some("2=3")));
        assert_eq!(command.value("--c"), Ok(Some("/d e")));
        assert_eq!(command.value("--e"), Ok(None), "an empty value");
        assert_eq!(command.value("--f"), Ok(None));
        let error = command.value("--b").unwrap_err();
        assert_eq!(error, "its --b is \"/x/$X\", and it does not run");
        assert!(!command.is_running);
        let is_on = |text| ClientCommand::of_text(text).is_on("--live-restore");
        assert!(is_on("dockerd --live-restore=false --live-restore -D"));
        assert!(!is_on("dockerd --live-restore --live-restore=f"));
        assert!(!is_on("dockerd --live-restored"));
    }

    #[test]
    fn a_script_that_starts_the_program_is_not_the_program() {
        let runs = |text| ClientCommand::of_text(text).runs("kubelet");
        assert!(runs("/usr/bin/kubelet --v=2") && runs("kubelet"));
        assert!(!runs("/bin/bash /usr/bin/kubelet") && !runs(""));
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
        assert_eq!(command.value("--endpoint"), Ok(Some("unix:///a b.sock?x=1")));
        assert!(command.is_running && command.is_on("--live-restore"));
        assert!(ClientCommand::of_process(0).is_none());
    }
}

//! The steps of both commands, as data, so that a command prints exactly the steps that it takes.

use std::fmt;
use std::path::PathBuf;

use super::layout::{
    ADDRESS, CONTAINERD_UNIT, DOCKER_UNIT, Files, OUR_UNIT, SOCKET_UNIT, TTRPC_UNIT, UPSTREAM,
};
use super::node::Node;
use super::record::{Phase, TakeoverRecord};
use super::texts;

/// A step, which can be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TakeoverStep {
    /// Record how far the command has come.
    Note(Phase, bool),
    /// Write a file, and wait until it is on the disk.
    Write(PathBuf, String),
    /// Remove a file if it is there, and its folder if that is empty then.
    Remove(PathBuf),
    /// Run `systemctl`.
    Systemctl(Vec<&'static str>),
    /// Run `systemctl` with the verb, for those of the units that systemd has loaded.
    SystemctlIfLoaded(&'static str, Vec<&'static str>),
    /// Disable the sockets whose unit files are there.
    Disable,
    /// Let systemd listen on the address that containerd has left.
    Listen,
    /// Restart containerd, unless it listens on its own address already.
    RestartUnlessListening,
    /// Link containerd's other address to its own, for the shims that were started meanwhile.
    LinkShims,
}

impl fmt::Display for TakeoverStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(phase, _) => write!(f, "note: {}", format!("{phase:?}").to_lowercase()),
            Self::Write(path, _) => write!(f, "write {}", path.display()),
            Self::Remove(path) => write!(f, "remove {}, if it is there", path.display()),
            Self::Systemctl(arguments) => write!(f, "systemctl {}", arguments.join(" ")),
            Self::SystemctlIfLoaded(verb, units) => {
                write!(f, "systemctl {verb} {}", units.join(" "))
            }
            Self::Disable => write!(f, "systemctl disable {SOCKET_UNIT} {TTRPC_UNIT}"),
            Self::Listen => write!(f, "systemctl start {SOCKET_UNIT} {TTRPC_UNIT}"),
            Self::RestartUnlessListening => write!(
                f,
                "systemctl restart {CONTAINERD_UNIT}, unless it listens on {ADDRESS} already"
            ),
            Self::LinkShims => write!(
                f,
                "link {UPSTREAM} to {ADDRESS}, if containers of the meantime still run; until the next boot"
            ),
        }
    }
}

/// The effects of a restart of containerd on its clients.
const NOTES: [&str; 2] = [
    "while containerd restarts, calls to it fail: a new docker exec, for example, with \"connection closed\"; \
     containers and the commands in them go on",
    "dockerd does not hear of a container or a docker exec that ends before dockerd is connected again, as after any \
     restart of containerd: docker ps then shows the container as running, until docker rm -f",
];

/// The effect of a restart of dockerd with containerd.
const DOCKER_NOTE: &str = "docker.service is restarted with containerd if it runs: docker's containers go on if \
                           live-restore is on, and end if not; a docker exec under way ends";

/// Steps in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakeoverPlan {
    /// The steps.
    pub(crate) steps: Vec<TakeoverStep>,
    /// Units that systemd restarts with containerd.
    pub(crate) restarted_too: Vec<String>,
}

impl TakeoverPlan {
    /// The plan as lines, with the texts of the files that it writes.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for step in &self.steps {
            lines.push(format!("plan  {step}"));
            if let TakeoverStep::Write(_, text) = step {
                lines.extend(text.lines().map(|line| format!("        {line}")));
            }
        }
        lines.extend(NOTES.map(|note| format!("note  {note}")));
        if !self.restarted_too.is_empty() {
            lines.push(format!(
                "plan  systemd restarts with containerd: {}",
                self.restarted_too.join(", ")
            ));
        }
        if self.restarted_too.iter().any(|unit| unit == DOCKER_UNIT) {
            lines.push(format!("note  {DOCKER_NOTE}"));
        }
        lines
    }
}

/// The steps of a takeover. The switch comes after all other files, and before the first restart.
pub(crate) fn takeover(files: &Files, node: &Node) -> TakeoverPlan {
    let mut steps = vec![TakeoverStep::Note(Phase::Taking, node.service_was_active)];
    steps.extend(texts::units(files, node).map(|(path, text)| TakeoverStep::Write(path, text)));
    steps.extend([
        TakeoverStep::Systemctl(vec!["daemon-reload"]),
        TakeoverStep::Systemctl(vec!["enable", SOCKET_UNIT, TTRPC_UNIT]),
        TakeoverStep::Write(files.switch.clone(), texts::switch()),
        TakeoverStep::Systemctl(vec!["stop", OUR_UNIT]),
        TakeoverStep::Systemctl(vec!["restart", CONTAINERD_UNIT]),
        TakeoverStep::Listen,
        TakeoverStep::Systemctl(vec!["start", OUR_UNIT]),
    ]);
    TakeoverPlan { steps, restarted_too: node.restarted_too.clone() }
}

/// The steps of a release, from any state, without the units that systemd restarts with containerd.
///
/// The switch goes first: without it containerd restarts on its own address, whatever systemd has loaded. The daemon stops
/// after that restart: it may wait two seconds for its clients' calls, and no client would have an answer in the meantime.
pub(crate) fn release(files: &Files, record: Option<&TakeoverRecord>) -> TakeoverPlan {
    let was_active = record.is_some_and(|record| record.service_was_active);
    let mut steps = vec![
        TakeoverStep::Note(Phase::Releasing, was_active),
        TakeoverStep::Remove(files.switch.clone()),
        TakeoverStep::SystemctlIfLoaded("stop", vec![SOCKET_UNIT, TTRPC_UNIT]),
        TakeoverStep::RestartUnlessListening,
        TakeoverStep::SystemctlIfLoaded("stop", vec![OUR_UNIT]),
        TakeoverStep::Disable,
    ];
    steps.extend(files.all().into_iter().skip(1).map(|path| TakeoverStep::Remove(path.to_owned())));
    steps.extend([TakeoverStep::Systemctl(vec!["daemon-reload"]), TakeoverStep::LinkShims]);
    if was_active {
        steps.push(TakeoverStep::SystemctlIfLoaded("start", vec![OUR_UNIT]));
    }
    steps.push(TakeoverStep::Remove(files.record.clone()));
    TakeoverPlan { steps, restarted_too: Vec::new() }
}

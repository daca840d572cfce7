//! Both commands on a machine that is played: interrupted after every step, the machine is in one of the two
//! states, would boot into one of the two, and `release` leads back.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::layout::{CONTAINERD_UNIT, OUR_UNIT, SOCKET_UNIT, TTRPC_SUFFIX, TTRPC_UNIT};
use super::node::SocketOwner;
use super::plan::TakeoverStep;
use super::*;

/// systemd, containerd and our service, as the files that systemd has loaded make them.
struct Machine {
    dir: tempfile::TempDir,
    files: Files,
    /// Unit files and drop-ins as of the last `daemon-reload`.
    loaded: BTreeSet<std::path::PathBuf>,
    enabled: BTreeSet<String>,
    /// Paths that containerd listens on.
    containerd: Vec<String>,
    /// Paths that systemd listens on.
    systemd: BTreeSet<String>,
    /// The containerd that our running service is in front of.
    service: Option<Option<String>>,
    /// containerd's settings name its address for ttrpc.
    keeps_ttrpc: bool,
    shims: bool,
    restarts: usize,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        fs::create_dir_all(&files.run).unwrap();
        let mut machine = Self {
            dir,
            files,
            loaded: BTreeSet::new(),
            enabled: BTreeSet::new(),
            containerd: Vec::new(),
            systemd: BTreeSet::new(),
            service: None,
            keeps_ttrpc: false,
            shims: false,
            restarts: 0,
        };
        machine.start_containerd();
        machine
    }

    fn is_on(&self) -> bool {
        self.files.switch.exists()
    }

    fn start_containerd(&mut self) {
        let moved = self.loaded.contains(&self.files.containerd) && self.is_on();
        let address = if moved { UPSTREAM } else { ADDRESS };
        let ttrpc = if self.keeps_ttrpc { ADDRESS } else { address };
        self.containerd = vec![address.to_owned(), format!("{ttrpc}{TTRPC_SUFFIX}")];
    }

    fn start_service(&mut self) {
        let is_loaded = self.loaded.contains(&self.files.daemon) && self.is_on();
        self.service = Some(is_loaded.then(|| UPSTREAM.to_owned()));
    }

    fn start_socket(&mut self, unit: &str) {
        let (file, end) = if unit == SOCKET_UNIT {
            (&self.files.socket, "")
        } else {
            (&self.files.ttrpc, TTRPC_SUFFIX)
        };
        assert!(self.loaded.contains(file), "{unit} is not loaded");
        let path = format!("{ADDRESS}{end}");
        assert!(!self.containerd.contains(&path), "systemd would take {path} from containerd");
        if self.is_on() {
            self.systemd.insert(path);
        }
    }

    fn boot(&mut self) {
        self.load();
        self.systemd.clear();
        self.service = None;
        fs::remove_dir_all(&self.files.run).unwrap();
        fs::create_dir_all(&self.files.run).unwrap();
        self.containerd.clear();
        for unit in self.enabled.clone() {
            self.start_socket(&unit);
        }
        self.start_containerd();
    }

    fn load(&mut self) {
        let units = self.files.all().into_iter().skip(1);
        self.loaded = units.filter(|path| path.exists()).map(Path::to_owned).collect();
    }

    /// Every client reaches containerd at its address: directly, or through systemd's socket and us.
    fn is_whole(&self) -> Result<TakeoverState, String> {
        let ttrpc = format!("{ADDRESS}{TTRPC_SUFFIX}");
        let at_home = self.containerd.contains(&ADDRESS.to_owned());
        let reaches_shims = self.containerd.contains(&ttrpc) || self.systemd.contains(&ttrpc);
        let through_us = self.systemd.contains(ADDRESS)
            && self.containerd.contains(&UPSTREAM.to_owned())
            // Not started yet: its first client starts it.
            && self.service.as_ref().is_none_or(|containerd| containerd.as_deref() == Some(UPSTREAM));
        match (at_home, through_us, reaches_shims) {
            (true, false, true) if self.systemd.is_empty() => Ok(TakeoverState::Released),
            (false, true, true) => Ok(TakeoverState::Taken),
            _ => Err(format!("{:?} {:?} {:?}", self.containerd, self.systemd, self.service)),
        }
    }

    fn node(&self) -> Node {
        let owner = SocketOwner { uid: 0, gid: 998, mode: 0o660 };
        Node {
            command: "/usr/bin/containerd --log-level info".into(),
            ttrpc_owner: owner.clone(),
            owner,
            service_was_active: self.service.is_some(),
            restarted_too: vec!["docker.service".into()],
        }
    }

    fn steps(&mut self, steps: &[TakeoverStep]) -> Result<()> {
        let files = self.files.clone();
        let mut runner = Runner { files: &files, systemd: self };
        steps.iter().try_for_each(|step| runner.run(step))
    }

    fn take(&mut self) -> TakeoverPlan {
        let node = self.node();
        plan::takeover(&self.files, &node)
    }

    fn taken(&mut self) {
        let was_active = self.service.is_some();
        let steps = self.take().steps;
        self.steps(&steps).unwrap();
        TakeoverRecord::write(&self.files, Phase::Taken, was_active).unwrap();
    }

    /// As the command: it does nothing where no takeover has begun.
    fn release(&mut self) {
        if state_of(&self.files).unwrap() == TakeoverState::Released {
            return;
        }
        let record = TakeoverRecord::read(&self.files).unwrap();
        let steps = plan::release(&self.files, record.as_ref()).steps;
        self.steps(&steps).unwrap();
    }

    fn left(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.file_name().into_string().unwrap()),
                }
            }
        }
        found.sort();
        found
    }
}

impl Systemd for Machine {
    fn systemctl(&mut self, arguments: &[&str]) -> Result<String> {
        match arguments {
            ["daemon-reload"] => self.load(),
            ["enable", units @ ..] => self.enabled.extend(units.iter().map(|u| (*u).to_owned())),
            ["disable", units @ ..] => {
                for unit in units {
                    if !self
                        .files
                        .all()
                        .into_iter()
                        .any(|file| file.ends_with(unit) && file.exists())
                    {
                        return Err(Error::Internal(format!("Unit file {unit} does not exist")));
                    }
                    self.enabled.remove(*unit);
                }
            }
            ["show", "--value", "--property", "LoadState", unit] => {
                let file = self.files.all().into_iter().find(|path| path.ends_with(unit));
                let known = file.is_none_or(|file| self.loaded.contains(file));
                return Ok(if known { "loaded\n" } else { "not-found\n" }.into());
            }
            ["stop", units @ ..] => {
                for unit in units {
                    match *unit {
                        OUR_UNIT => self.service = None,
                        SOCKET_UNIT | TTRPC_UNIT => {
                            let end = if *unit == SOCKET_UNIT { "" } else { TTRPC_SUFFIX };
                            self.systemd.remove(&format!("{ADDRESS}{end}"));
                        }
                        other => panic!("stop {other}"),
                    }
                }
            }
            ["start", OUR_UNIT] => self.start_service(),
            ["start", units @ ..] => units.iter().for_each(|unit| self.start_socket(unit)),
            ["restart", CONTAINERD_UNIT] => {
                assert!(
                    !self.systemd.contains(ADDRESS) || self.is_on(),
                    "containerd would take our path"
                );
                self.restarts += 1;
                self.start_containerd();
            }
            other => panic!("{other:?}"),
        }
        Ok(String::new())
    }

    fn containerd_listens(&mut self, path: &str) -> Result<bool> {
        Ok(self.containerd.iter().any(|listening| listening == path))
    }

    fn has_shims_of_takeover(&mut self) -> Result<bool> {
        Ok(self.shims)
    }
}

#[test]
fn takeover_and_release_restart_containerd_twice_and_leave_nothing() {
    for was_active in [false, true] {
        let mut machine = Machine::new();
        if was_active {
            machine.start_service();
        }
        machine.taken();
        assert_eq!(machine.is_whole(), Ok(TakeoverState::Taken));
        machine.boot();
        assert_eq!(machine.is_whole(), Ok(TakeoverState::Taken), "after a boot");
        machine.release();
        assert_eq!(machine.is_whole(), Ok(TakeoverState::Released));
        assert_eq!((machine.restarts, machine.left()), (2, Vec::new()));
        assert_eq!(machine.service.is_some(), was_active, "our service is as it was");
    }
}

/// Plays `begin`, then the first `done` of the steps that it returns.
fn interrupted(done: usize, begin: impl Fn(&mut Machine) -> Vec<TakeoverStep>) -> (Machine, usize) {
    let mut machine = Machine::new();
    machine.start_service();
    let steps = begin(&mut machine);
    machine.steps(&steps[..done.min(steps.len())]).unwrap();
    (machine, steps.len())
}

fn check_interruptions(begin: impl Fn(&mut Machine) -> Vec<TakeoverStep>) {
    let (_, count) = interrupted(0, &begin);
    for done in 0..=count {
        let (mut machine, _) = interrupted(done, &begin);
        machine.boot();
        let whole = machine.is_whole();
        assert!(whole.is_ok(), "booted after {done} steps: {whole:?}");
        machine.release();
        assert_eq!(
            machine.is_whole(),
            Ok(TakeoverState::Released),
            "booted after {done} steps, and released"
        );

        let (mut machine, _) = interrupted(done, &begin);
        machine.release();
        assert_eq!(machine.is_whole(), Ok(TakeoverState::Released), "{done} steps, and released");
        assert_eq!(machine.left(), [""; 0], "{done} steps, and released");
        assert!(machine.service.is_some(), "{done} steps: our service runs again");
        assert!(
            machine.restarts <= 2,
            "{done} steps: containerd was restarted {} times",
            machine.restarts
        );
    }
}

#[test]
fn a_takeover_interrupted_after_any_step_boots_whole_and_is_released_whole() {
    check_interruptions(|machine| machine.take().steps);
}

#[test]
fn a_release_interrupted_after_any_step_boots_whole_and_goes_on() {
    check_interruptions(|machine| {
        machine.taken();
        let record = TakeoverRecord::read(&machine.files).unwrap();
        plan::release(&machine.files, record.as_ref()).steps
    });
}

#[test]
fn a_containerd_that_keeps_its_ttrpc_address_keeps_its_socket() {
    let mut machine = Machine { keeps_ttrpc: true, ..Machine::new() };
    machine.taken();
    assert_eq!(machine.is_whole(), Ok(TakeoverState::Taken));
    assert_eq!(machine.systemd.iter().collect::<Vec<_>>(), [ADDRESS]);
    machine.boot();
    assert_eq!(machine.is_whole(), Ok(TakeoverState::Taken));
    machine.release();
    assert_eq!((machine.is_whole(), machine.left()), (Ok(TakeoverState::Released), Vec::new()));
}

#[test]
fn a_containerd_that_does_not_move_keeps_its_address() {
    let mut machine = Machine::new();
    let steps = machine.take().steps;
    // Its drop-in has no effect, for whatever reason.
    let steps: Vec<_> = steps
        .into_iter()
        .filter(|step| !matches!(step, TakeoverStep::Write(path, _) if *path == machine.files.containerd))
        .collect();
    let refused = machine.steps(&steps).unwrap_err();
    assert!(
        refused.message().contains("listens on /run/containerd/containerd.sock still"),
        "{refused}"
    );
    machine.release();
    assert_eq!((machine.is_whole(), machine.restarts), (Ok(TakeoverState::Released), 1));
}

#[test]
fn shims_of_the_meantime_reach_containerd_after_a_release() {
    let mut machine = Machine { shims: true, ..Machine::new() };
    machine.taken();
    machine.release();
    assert_eq!(machine.left(), ["containerd-upstream.sock", "containerd-upstream.sock.ttrpc"]);
    let link = machine.files.run.join("containerd-upstream.sock.ttrpc");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("containerd.sock.ttrpc"));
    // They have ended: the links go with the next takeover and release.
    machine.shims = false;
    machine.taken();
    machine.release();
    assert_eq!(machine.left(), [""; 0]);
}

#[test]
fn the_plan_shows_every_file_with_its_text_and_every_restart() {
    let machine = Machine::new();
    let lines = plan::takeover(&machine.files, &machine.node()).lines().join("\n");
    for part in [
        "ListenStream=/run/containerd/containerd.sock\n",
        "ListenStream=/run/containerd/containerd.sock.ttrpc\n",
        "SocketGroup=998\n",
        "SocketMode=0660\n",
        "ExecStart=\n        ExecStart=/usr/bin/containerd --log-level info $LMDB_IMAGES_TAKEOVER_FLAGS\n",
        "LMDB_IMAGES_TAKEOVER_FLAGS=\"--address /run/containerd/containerd-upstream.sock\"\n",
        "plan  systemctl restart containerd.service\n",
        "plan  systemd restarts with containerd: docker.service",
        "note  while containerd restarts, calls to it fail",
        "note  docker.service is restarted with containerd if it runs: docker's containers go on if live-restore is on",
    ] {
        assert!(lines.contains(part), "{part} is not in\n{lines}");
    }
    assert!(!lines.contains("SocketUser"), "root is systemd's default");
}

#[test]
fn a_damaged_record_does_not_stop_a_release() {
    let mut machine = Machine::new();
    machine.taken();
    fs::write(&machine.files.record, "{\"phase\":").unwrap();
    machine.release();
    assert_eq!((machine.is_whole(), machine.left()), (Ok(TakeoverState::Released), Vec::new()));
}

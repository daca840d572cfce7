//! `lmdb-images takeover` and `lmdb-images release`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Args;

use super::output::{Failure, Output};
use super::{StoreArgs, block_on};
use crate::admin::takeover::{self, ADDRESS, TakeoverEvent, TakeoverState, UPSTREAM};
use crate::model::printable::one_line;
use crate::model::{Error, Result};

/// Put lmdb-images at the address of this machine's containerd, so that every client goes through it
///
/// Works on a machine where systemd runs containerd. A drop-in of containerd's unit moves containerd to
/// /run/containerd/containerd-upstream.sock, and sockets that systemd holds for lmdb-images.service take its
/// address. No client needs another setting. The command restarts containerd once; running containers keep
/// running. It first prints its checks and everything that it will write or restart. It changes nothing if a
/// check fails, and undoes the takeover if a later check fails. It continues if the terminal closes; if it is
/// killed, systemd undoes the takeover.
///
/// --root is the folder of the daemon's store. `lmdb-images release` gives the address back.
#[derive(Args)]
pub(crate) struct Takeover {
    #[command(flatten)]
    root: StoreArgs,

    /// Print the checks and the plan, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Take the steps in this process, as systemd does
    #[arg(long, hide = true, conflicts_with = "dry_run")]
    here: bool,
}

/// Give containerd its address back, after a takeover
///
/// The command restarts containerd once; running containers keep running. It works after a takeover that was
/// interrupted at any step, and can be repeated. The store, its names and the settings stay.
#[derive(Args)]
pub(crate) struct Release {
    /// Print the plan, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Take the steps in this process, as systemd does
    #[arg(long, hide = true, conflicts_with = "dry_run")]
    here: bool,

    /// Change nothing unless a command was interrupted, as systemd does
    #[arg(long, hide = true, requires = "here")]
    if_interrupted: bool,
}

impl Takeover {
    /// Checks, prints the plan, and has systemd do it.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let store = self.root.folder()?;
        let mut out = Output::new();
        if self.here {
            block_on(takeover::take(&store, |event| print_event(&mut out, &event)))?;
            return finish(out, &taken_message());
        }
        match takeover::state()? {
            TakeoverState::Taken => return finish(out, &format!("{ADDRESS} is ours already")),
            TakeoverState::Interrupted => {
                return Err(Error::FailedPrecondition(
                    "a takeover or a release was interrupted: run `lmdb-images release` first"
                        .into(),
                )
                .into());
            }
            TakeoverState::Released => {}
        }
        let program = program()?;
        block_on(takeover::prepare(&store, &program, |event| print_event(&mut out, &event)))?;
        if self.dry_run {
            return finish(out, "nothing was done");
        }
        out.finish("nothing was done")?;
        in_unit(&["takeover".as_ref(), "--here".as_ref(), "--root".as_ref(), store.as_os_str()])
    }
}

impl Release {
    /// Prints the plan, and has systemd do it.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let mut out = Output::new();
        let state = takeover::state()?;
        let is_interrupted = state == TakeoverState::Interrupted;
        if state == TakeoverState::Released || (self.if_interrupted && !is_interrupted) {
            // systemd asks after every end; only a person wants an answer.
            return if self.here {
                Ok(ExitCode::SUCCESS)
            } else {
                finish(out, "nothing to release: this node was not taken over")
            };
        }
        if self.here {
            block_on(takeover::release(|event| print_event(&mut out, &event)))?;
            return finish(out, &released_message());
        }
        takeover::plan_release()?.lines().iter().for_each(|line| out.line(line));
        if self.dry_run {
            return finish(out, "nothing was done");
        }
        out.finish("nothing was done")?;
        in_unit(&["release".as_ref(), "--here".as_ref()])
    }
}

fn taken_message() -> String {
    format!("taken over: clients of {ADDRESS} come to us, and containerd listens on {UPSTREAM}")
}

fn released_message() -> String {
    format!("released: containerd has {ADDRESS}")
}

fn print_event(out: &mut Output, event: &TakeoverEvent<'_>) {
    match event {
        TakeoverEvent::Check(check) => match &check.found {
            Ok(found) => out.line(format_args!("ok    {}: {}", check.subject, one_line(found))),
            Err(why) => out.line(format_args!("STOP  {}: {why}", check.subject)),
        },
        TakeoverEvent::Plan(plan) => plan.lines().iter().for_each(|line| out.line(line)),
        TakeoverEvent::Step(step) => out.line(format_args!("do    {step}")),
    }
}

fn finish(mut out: Output, line: &str) -> Result<ExitCode, Failure> {
    out.line(line);
    out.finish(line)?;
    Ok(ExitCode::SUCCESS)
}

fn program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|e| Error::Internal(format!("finding the path of this program: {e}")))
}

/// Name of the unit. systemd has one of a name, so two commands never run at once.
const UNIT: &str = "lmdb-images-takeover-run";

/// How long systemd may take to end and to forget a unit.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two looks at it: systemd does not announce that it has forgotten a unit.
const FORGET_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until systemd has forgotten the unit of the last command. Until then it refuses another one of that name,
/// also for a moment after the last one has ended.
fn await_forgotten() {
    let deadline = Instant::now() + FORGET_TIMEOUT;
    while Instant::now() < deadline && is_known() {
        std::thread::sleep(FORGET_INTERVAL);
    }
}

/// Whether systemd knows the unit. If systemd does not answer, systemd-run says so.
fn is_known() -> bool {
    let mut show = Command::new("systemctl");
    let Ok(shown) = show.args(["show", "--value", "--property=FragmentPath", UNIT]).output() else {
        return false;
    };
    !shown.stdout.trim_ascii().is_empty()
}

/// Runs this program with these arguments in a unit of systemd's. Whatever ends it, systemd then has the way
/// back run if it was interrupted.
fn in_unit(arguments: &[&OsStr]) -> Result<ExitCode, Failure> {
    let program = program()?;
    let path = program.to_str().filter(|path| !path.contains(['"', '\\', '%', '$']));
    let path = path.ok_or_else(|| {
        Error::InvalidArgument("this program's path has special characters: move it".into())
    })?;
    let after = format!("ExecStopPost=\"{path}\" release --here --if-interrupted");
    await_forgotten();
    let mut command = Command::new("systemd-run");
    command.args([
        "--quiet",
        "--collect",
        "--pipe",
        "--wait",
        "--service-type=exec",
        "--unit",
        UNIT,
    ]);
    // The steps wait for containerd and the daemon as long as their own units do.
    command.args(["--property", &after, "--property", "TimeoutStopSec=600", "--"]);
    let status = command.arg(&program).args(arguments).status();
    let status = status.map_err(|e| Error::Internal(format!("running systemd-run: {e}")))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

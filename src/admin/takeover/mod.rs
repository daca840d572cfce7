//! `lmdb-images takeover`: the daemon takes the address of a containerd that systemd runs, so that every
//! client goes through it without a changed setting. `lmdb-images release`: the way back.
//!
//! - [`layout`]: the addresses, and the files that a takeover makes; [`texts`]: their texts; [`disk`] writes them
//! - [`mod@unit`]: reads containerd's command from its unit; [`listening`]: the sockets that it listens on;
//!   [`node`]: the state of this machine; [`preflight`]: the checks before the first step
//! - [`clients`]: each [`client`] of containerd on this machine, and the address that its [`settings`] and [`commands`]
//!   name; those of the [`kubelet`] have rules of their own
//! - [`plan`]: the steps, as data, so that the command prints exactly the steps that it takes; [`steps`]: takes one
//! - [`record`]: the state of a takeover, which a release needs after an interruption
//! - [`systemd`]: systemctl; [`shims`]: containers that were started during the takeover
//! - [`postflight`]: the checks after the last step, with [`cri`] for the kubelet's calls
//!
//! **One file decides.** Every file of a takeover has an effect only while `takeover.env` exists: the two
//! sockets have it as a condition, and without it containerd's command ends in an empty variable. The takeover
//! makes it after all other files, and the release removes it before them. So a machine that loses its power at
//! any moment boots into one of the two states.
//!
//! **systemd finishes.** The steps run in a transient unit of systemd's. If their process is killed, systemd
//! runs `release`, which begins anywhere and can be repeated.

mod client;
mod clients;
mod commands;
mod cri;
mod disk;
mod kubelet;
mod layout;
mod listening;
mod node;
mod plan;
mod postflight;
mod preflight;
mod record;
mod settings;
mod shims;
mod steps;
mod systemd;
mod texts;
mod unit;
mod yaml;

use std::path::Path;

pub(crate) use self::layout::{ADDRESS, UPSTREAM};
pub(crate) use self::plan::TakeoverPlan;

use self::clients::Clients;
use self::layout::Files;
use self::node::Node;
use self::record::{Phase, TakeoverRecord};
use self::steps::Runner;
use self::systemd::{Systemctl, Systemd};
use crate::admin::precondition::{Check, refusal};
use crate::model::{Error, Result};

/// An event of a running command, to print.
#[derive(Debug)]
pub(crate) enum TakeoverEvent<'e> {
    /// A check before or after.
    Check(&'e Check),
    /// The whole plan.
    Plan(&'e TakeoverPlan),
    /// The step that runs next.
    Step(String),
}

/// Which of the two states the machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeoverState {
    /// containerd has its own address.
    Released,
    /// The daemon has it.
    Taken,
    /// A takeover or a release was interrupted: `release` continues from there.
    Interrupted,
}

/// Returns the state of this machine, by the files of a takeover.
pub(crate) fn state() -> Result<TakeoverState> {
    state_of(&Files::of_machine())
}

fn state_of(files: &Files) -> Result<TakeoverState> {
    Ok(match TakeoverRecord::read(files)?.map(|record| record.phase) {
        Some(Phase::Taken) => TakeoverState::Taken,
        Some(Phase::Taking | Phase::Releasing) => TakeoverState::Interrupted,
        None if files.all().iter().any(|path| path.symlink_metadata().is_ok()) => {
            TakeoverState::Interrupted
        }
        None => TakeoverState::Released,
    })
}

/// Checks whether the address can be taken over, and tells the checks and the plan. Changes nothing.
///
/// # Errors
/// `FailedPrecondition` if a check forbids it.
pub(crate) async fn prepare(
    store: &Path,
    program: &Path,
    mut each: impl FnMut(TakeoverEvent<'_>),
) -> Result<TakeoverPlan> {
    let files = Files::of_machine();
    let mut systemctl = Systemctl;
    let mut checks = preflight::of_machine(&mut systemctl);
    let node = match refusal(&checks) {
        Some(_) => None,
        None => match Node::inspect(&mut systemctl) {
            Ok(node) => {
                checks.extend(preflight::of_node(&node, &mut systemctl, store, program).await);
                Some(node)
            }
            Err(e) => {
                let found = Err(e.message().into());
                checks.push(Check { subject: "containerd", found });
                None
            }
        },
    };
    checks.iter().for_each(|check| each(TakeoverEvent::Check(check)));
    let (Some(node), None) = (node, refusal(&checks)) else {
        return Err(refusal(&checks).unwrap_or_else(|| Error::Internal("no node".into())));
    };
    let plan = plan::takeover(&files, &node);
    each(TakeoverEvent::Plan(&plan));
    Ok(plan)
}

/// Takes the address over. Goes back by itself if a step or a check after it fails.
///
/// # Errors
/// The step or the check that failed, and whether the way back did.
pub(crate) async fn take(store: &Path, mut each: impl FnMut(TakeoverEvent<'_>)) -> Result<()> {
    let files = Files::of_machine();
    let mut systemctl = Systemctl;
    let node = Node::inspect(&mut systemctl)?;
    let clients = Clients::of_machine(&mut systemctl);
    let plan = plan::takeover(&files, &node);
    let taken = match run(&plan, &files, &mut systemctl, &mut each) {
        Ok(()) => postflight::check_taken(store, &node, &clients, &mut each).await,
        Err(e) => Err(e),
    };
    let Err(failed) = taken else {
        return TakeoverRecord::write(&files, Phase::Taken, node.service_was_active);
    };
    let back = match release_steps(&files, &mut systemctl, &mut each) {
        Ok(()) => postflight::check_released(&mut each).await,
        Err(e) => Err(e),
    };
    Err(match back {
        Ok(()) => Error::FailedPrecondition(format!("{failed}; containerd has its address again")),
        Err(back) => Error::Internal(format!(
            "{failed}; and the way back failed, too: {back}; run `lmdb-images release`"
        )),
    })
}

/// Gives containerd its address back. May begin after any step of either command.
///
/// # Errors
/// The step that failed: it can be repeated.
pub(crate) async fn release(mut each: impl FnMut(TakeoverEvent<'_>)) -> Result<()> {
    release_steps(&Files::of_machine(), &mut Systemctl, &mut each)?;
    postflight::check_released(&mut each).await
}

/// The plan of [`release`]. Changes nothing.
pub(crate) fn plan_release() -> Result<TakeoverPlan> {
    let files = Files::of_machine();
    let plan = plan::release(&files, TakeoverRecord::read(&files)?.as_ref());
    // A release works without an answer, too.
    let restarted_too = node::restarted_with_containerd(&mut Systemctl).unwrap_or_default();
    Ok(TakeoverPlan { restarted_too, ..plan })
}

fn release_steps(
    files: &Files,
    systemd: &mut dyn Systemd,
    each: &mut impl FnMut(TakeoverEvent<'_>),
) -> Result<()> {
    let record = TakeoverRecord::read(files)?;
    run(&plan::release(files, record.as_ref()), files, systemd, each)
}

fn run(
    plan: &TakeoverPlan,
    files: &Files,
    systemd: &mut dyn Systemd,
    each: &mut impl FnMut(TakeoverEvent<'_>),
) -> Result<()> {
    let mut runner = Runner { files, systemd };
    plan.steps.iter().try_for_each(|step| {
        each(TakeoverEvent::Step(step.to_string()));
        runner.run(step)
    })
}

#[cfg(test)]
mod tests;

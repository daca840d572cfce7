//! Telling systemd how things stand: ready, what we do, stopping; and that we are alive.
//!
//! Alive is a daemon whose store can be read and whose writing thread answers: the watchdog is told
//! so after that was tried, and hears nothing when it failed. A containerd behind that is down is
//! no reason to be restarted, nor is a store's folder that was removed; the status says it.
//!
//! A datagram waits for room while the listener does not read, so each is sent off the async
//! threads: a systemd that hangs holds up nobody's call.
//!
//! Without a `NOTIFY_SOCKET` in the environment nothing is done.

use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Status, Stopping, Watchdog};

use crate::health::Health;

/// How often the status is looked at, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The same at the start, before a containerd's events come in, and while not all is well: whoever
/// has waited until it is well is then not told otherwise by `systemctl status`.
const STATUS_INTERVAL_STARTUP: Duration = Duration::from_secs(1);

/// How long the daemon's start and end wait for a listener that does not read.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells that calls are answered, and what is served.
pub async fn ready(status: &str) {
    let status = status.to_owned();
    let told = tell(move || send(&[Ready, Status(&status)]));
    let _ = tokio::time::timeout(NOTIFY_TIMEOUT, told).await;
}

/// Tells that the daemon is ending.
pub async fn stopping() {
    let told = tell(|| send(&[Stopping, Status("stopping: waiting for the calls under way")]));
    let _ = tokio::time::timeout(NOTIFY_TIMEOUT, told).await;
}

/// Keeps telling, for as long as it runs. `status` is what holds while all is well.
pub async fn run(health: Health, status: String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Half of the time that systemd waits, as it recommends.
    let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
    let often = watchdog.map_or(STATUS_INTERVAL, |time| time.min(STATUS_INTERVAL));
    let mut look = tokio::time::interval(often);
    look.reset_after(often.min(STATUS_INTERVAL_STARTUP));
    let mut told = status.clone();
    let mut failing = false;
    loop {
        look.tick().await;
        match health.liveness().await {
            Ok(()) => {
                failing = false;
                if watchdog.is_some() {
                    tell(|| send(&[Watchdog])).await;
                }
            }
            Err(e) if !std::mem::replace(&mut failing, true) => {
                log::error!("the store does not answer: {e}");
            }
            Err(_) => {}
        }
        let now = match health.check().await {
            Ok(()) => status.clone(),
            Err(e) => format!("{status}: {}", e.message().replace('\n', " ")),
        };
        if now != status {
            look.reset_after(often.min(STATUS_INTERVAL_STARTUP));
        }
        if now != told {
            told.clone_from(&now);
            tell(move || send(&[Status(&now)])).await;
        }
    }
}

async fn tell(send: impl FnOnce() + Send + 'static) {
    // It fails only when the daemon is ending.
    let _ = tokio::task::spawn_blocking(send).await;
}

fn send(state: &[NotifyState<'_>]) {
    // Without a NOTIFY_SOCKET this does nothing.
    if let Err(e) = sd_notify::notify(state) {
        log::warn!("systemd cannot be told how things stand: {e}");
    }
}

//! Telling systemd how things stand: ready, what we do, stopping; and that we are alive.
//!
//! Alive is a daemon whose store can be read and whose writing thread answers: the watchdog is told
//! so after that was tried, and hears nothing when it failed. A containerd behind that is down is
//! no reason to be restarted; the status says it.
//!
//! Without a `NOTIFY_SOCKET` in the environment nothing is done.

use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Status, Stopping, Watchdog};

use crate::front::health::Health;

/// How often the status is looked at, at most.
const LOOK: Duration = Duration::from_secs(5);

/// Tells that calls are answered, and what is served.
pub fn ready(status: &str) {
    tell(&[Ready, Status(status)]);
}

/// Tells that the daemon is ending.
pub fn stopping() {
    tell(&[Stopping, Status("stopping: waiting for the calls under way")]);
}

/// Keeps telling, for as long as it runs. `status` is what holds while all is well.
pub async fn run(health: Health, status: String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Half of the time that systemd waits, as it recommends.
    let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
    let mut look = tokio::time::interval(watchdog.map_or(LOOK, |time| time.min(LOOK)));
    let mut told = status.clone();
    let mut failing = false;
    loop {
        look.tick().await;
        match health.store().await {
            Ok(()) => {
                failing = false;
                if watchdog.is_some() {
                    tell(&[Watchdog]);
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
        if now != told {
            tell(&[Status(&now)]);
            told = now;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a NOTIFY_SOCKET this does nothing.
    if let Err(e) = sd_notify::notify(state) {
        log::warn!("systemd cannot be told how things stand: {e}");
    }
}

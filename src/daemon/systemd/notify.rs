//! Reports to systemd: ready, status, stopping, and the watchdog's keep-alive.
//!
//! The daemon sends a keep-alive only after a check that its store can be read and that the writer
//! thread answers. A restart would not help if the upstream containerd is down or the store's folder was
//! removed, so these only change the status.
//!
//! Sending a datagram blocks while systemd does not read, so it happens on the blocking pool: a hanging
//! systemd delays no call.
//!
//! Without a `NOTIFY_SOCKET` in the environment these functions do nothing.

use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Status, Stopping, Watchdog};

use crate::health::Health;

/// Longest interval between two checks of the status.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The interval at the start, and while the daemon is not healthy. It is short so that `systemctl status`
/// is up to date soon after the daemon becomes healthy.
const STATUS_INTERVAL_STARTUP: Duration = Duration::from_secs(1);

/// How long the daemon's start and stop wait for a systemd that does not read.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that the daemon answers calls, with its status.
pub(crate) async fn ready(status: &str) {
    let status = status.to_owned();
    let sent = send_on_pool(move || send(&[Ready, Status(&status)]));
    let _ = tokio::time::timeout(NOTIFY_TIMEOUT, sent).await;
}

/// Reports another status.
#[cfg(feature = "fleet")]
pub(crate) async fn status(text: String) {
    send_on_pool(move || send(&[Status(&text)])).await;
}

/// Reports that the daemon is stopping.
pub(crate) async fn stopping() {
    let sent =
        send_on_pool(|| send(&[Stopping, Status("stopping: waiting for the calls in flight")]));
    let _ = tokio::time::timeout(NOTIFY_TIMEOUT, sent).await;
}

/// Sends keep-alives and changes of the status until the task is aborted. `status` is the status of a
/// healthy daemon.
pub(crate) async fn run(health: Health, status: String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // systemd recommends half of the watchdog's timeout.
    let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
    let interval = watchdog.map_or(STATUS_INTERVAL, |time| time.min(STATUS_INTERVAL));
    let mut ticks = tokio::time::interval(interval);
    ticks.reset_after(interval.min(STATUS_INTERVAL_STARTUP));
    let mut last_sent = status.clone();
    let mut failing = false;
    loop {
        ticks.tick().await;
        match health.liveness().await {
            Ok(()) => {
                failing = false;
                if watchdog.is_some() {
                    send_on_pool(|| send(&[Watchdog])).await;
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
            ticks.reset_after(interval.min(STATUS_INTERVAL_STARTUP));
        }
        if now != last_sent {
            last_sent.clone_from(&now);
            send_on_pool(move || send(&[Status(&now)])).await;
        }
    }
}

async fn send_on_pool(send: impl FnOnce() + Send + 'static) {
    // Joining fails only while the runtime shuts down.
    let _ = tokio::task::spawn_blocking(send).await;
}

fn send(state: &[NotifyState<'_>]) {
    // Without a NOTIFY_SOCKET this does nothing.
    if let Err(e) = sd_notify::notify(state) {
        log::warn!("reporting the status to systemd: {e}");
    }
}

//! What `ship` and `fleet collect` have in common: they run until a signal, show metrics, and tell systemd and
//! the log what they are doing.

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::daemon::metrics::Address;
use crate::daemon::process::Signals;
use crate::daemon::sockets::Access;
use crate::daemon::systemd::notify;
use crate::fleet::ship::ReportingState;
use crate::model::Result;
use crate::transport::metrics_http::{self, Pages, Verdict};

/// The pages of the metrics address.
#[derive(Clone)]
struct MetricsPages<F> {
    text: F,
    states: watch::Receiver<ReportingState>,
}

impl<F: Fn() -> String + Clone + Send + Sync + 'static> Pages for MetricsPages<F> {
    fn metrics(&self) -> impl Future<Output = Result<String>> + Send {
        std::future::ready(Ok((self.text)()))
    }

    async fn health(&self) -> Verdict {
        let ReportingState { is_reporting, text } = self.states.borrow().clone();
        match (is_reporting, text.is_empty()) {
            (true, _) => Ok(text),
            (false, true) => Err("starting".into()),
            (false, false) => Err(text),
        }
    }

    // A restart would not bring the server back.
    async fn alive(&self) -> Verdict {
        Ok("alive".into())
    }
}

/// Runs `work` until SIGTERM, SIGINT or SIGHUP. Serves `text` and the state at the metrics address meanwhile.
pub(crate) async fn until_signal<F>(
    metrics_address: Option<Address>,
    text: F,
    states: watch::Receiver<ReportingState>,
    work: impl Future<Output = ()>,
) -> Result<()>
where
    F: Fn() -> String + Clone + Send + Sync + 'static,
{
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    // The guard removes a unix socket at the end.
    let mut _socket = None;
    if let Some(address) = metrics_address {
        let access = Access { mode: 0o660, uid: None, gid: None };
        let (listener, guard, at) = address.listen(access).await?;
        _socket = guard;
        log::info!("metrics on {at}");
        let pages = MetricsPages { text, states: states.clone() };
        tokio::spawn(metrics_http::run(listener, stop.clone(), pages).boxed());
    }
    notify::ready("starting").await;
    tokio::spawn(notify_states(states).boxed());
    tokio::select! {
        () = work => {}
        signal = signals.next() => log::info!("{signal}: stopped"),
    }
    stop.cancel();
    Ok(())
}

/// Shows in systemd's status, and once in the log, that reports are answered again.
async fn notify_states(mut states: watch::Receiver<ReportingState>) {
    let mut was_reporting = false;
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        if state.is_reporting && !was_reporting {
            log::info!("{}", state.text);
        }
        was_reporting = state.is_reporting;
        notify::status(state.text).await;
    }
}

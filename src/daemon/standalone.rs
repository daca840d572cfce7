//! The services of a daemon without a containerd.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::services::Services;
use super::sockets::Socket;
use super::{Config, Daemon, access};
use crate::health::Health;
use crate::model::Result;
use crate::service::catalog::Catalog;
use crate::service::local::LocalImages;
use crate::service::standalone::Standalone;
use crate::transport::grpc::routes::standalone::StandaloneRouter;

impl Daemon {
    /// Serves the images of the store, and the other services that clients call beside them.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub(super) fn serve_standalone(
        &mut self,
        local: LocalImages,
        grpc: Socket,
        ttrpc: Socket,
        config: &Config,
    ) -> Result<Services> {
        let limits = &config.limits;
        let health = Health::new(self.store.clone(), None);
        let catalog = Catalog::new(local.clone(), Arc::new(local.clone()));
        let standalone = Standalone::new(local.clone());
        let router = StandaloneRouter::new(standalone, catalog.clone(), health.clone());
        self.serve_grpc(grpc.open(access(config.gid))?, router, limits);
        let (images, events) = (Arc::new(local.clone()), Some(local.events().clone()));
        let ttrpc = ttrpc.open(access(config.gid))?;
        self.serve_ttrpc(ttrpc, images.clone(), catalog.clone(), events, limits);
        self.servers.push(tokio::spawn(collect(local, self.stopping.clone()).boxed()));
        Ok(Services { images, catalog, health })
    }
}

/// Removes expired records: once after the start, then whenever it is due, until `stop`.
async fn collect(local: LocalImages, stop: CancellationToken) {
    loop {
        let collected = tokio::select! {
            () = stop.cancelled() => return,
            collected = local.collect() => collected,
        };
        if let Err(e) = collected {
            log::error!("collecting expired records: {e}");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = local.collector().due() => {}
        }
    }
}

//! The services of a daemon in front of a containerd.

use std::sync::Arc;

use futures_util::FutureExt;

use super::services::Services;
use super::sockets::{ProxySockets, Socket};
use super::{Config, Daemon, access};
use crate::containerd::client::GrpcClient;
use crate::health::Health;
use crate::model::Result;
use crate::proxy::images::ProxyImages;
use crate::proxy::{reconcile, undo_keep, watch};
use crate::service::catalog::Catalog;
use crate::service::local::LocalImages;
use crate::transport::Limits;
use crate::transport::conn::admission::Admission;
use crate::transport::grpc::forward::upstream::Upstream;
use crate::transport::grpc::routes::proxy::ProxyRouter;
use crate::transport::ttrpc::forward::TtrpcForwarder;

impl Daemon {
    /// Serves the images of containerd on `grpc` and `ttrpc`, and all of its calls on `sockets`.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub(super) async fn serve_proxied(
        &mut self,
        local: LocalImages,
        grpc: Socket,
        ttrpc: Socket,
        sockets: ProxySockets,
        config: &Config,
    ) -> Result<Services> {
        let limits = &config.limits;
        let upstream = sockets.upstream;
        let location = format!(", in front of containerd at {}", upstream.socket.display());
        self.status.push_str(&location);
        let client = GrpcClient::lazy(&upstream.socket);
        let proxy = ProxyImages::new(client, local, config.undo_keep);
        proxy.know_files().await;
        self.proxy = Some(proxy.clone());
        let health = Health::new(self.store.clone(), Some(proxy.clone()));
        let catalog = Catalog::new(proxy.local().clone(), Arc::new(proxy.clone()));
        let connect = || Upstream::new(Arc::from(upstream.socket.as_path()));
        let router =
            ProxyRouter::images_only(proxy.clone(), catalog.clone(), health.clone(), connect());
        self.serve_grpc(grpc.open(access(config.gid))?, router, limits);
        let router =
            ProxyRouter::forwards_all(proxy.clone(), catalog.clone(), health.clone(), connect());
        // Calls on the other sockets take no admission slots from containerd's clients.
        let own_admission = Limits { admission: Admission::forwarded(), ..limits.clone() };
        let containerd = sockets.grpc.open(upstream.access)?;
        self.serve_grpc(containerd, router, &own_admission);
        let images = Arc::new(proxy.clone());
        let ttrpc = ttrpc.open(access(config.gid))?;
        self.serve_ttrpc(ttrpc, images.clone(), catalog.clone(), None, limits);
        let upstream_ttrpc = upstream.ttrpc(&config.state)?;
        let forwarder = TtrpcForwarder::new(&upstream_ttrpc.socket, limits.metrics.clone());
        self.forward_ttrpc(sockets.ttrpc.open(upstream_ttrpc.access)?, forwarder, limits);
        self.tasks.push(tokio::spawn(watch::run(proxy.clone()).boxed()));
        if config.undo_keep.is_some() {
            self.tasks.push(tokio::spawn(undo_keep::run(proxy.clone()).boxed()));
        }
        self.tasks.push(tokio::spawn(reconcile::run(proxy).boxed()));
        Ok(Services { images, catalog, health })
    }
}

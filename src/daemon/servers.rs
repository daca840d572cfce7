//! Serves a protocol on a socket: accepts connections until the daemon stops.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::sockets::ListeningSocket;
use crate::service::Images;
use crate::service::catalog::Catalog;
use crate::service::events::Exchange;
use crate::transport::Limits;
use crate::transport::conn::listener;
use crate::transport::grpc::server::{GrpcServer, Router};
use crate::transport::ttrpc::forward::TtrpcForwarder;
use crate::transport::ttrpc::server::TtrpcServer;

impl Daemon {
    /// Serves gRPC calls, each with the handler that `router` finds.
    pub(super) fn serve_grpc(
        &mut self,
        socket: ListeningSocket,
        router: impl Router,
        limits: &Limits,
    ) {
        let server = GrpcServer::new(router, limits.clone());
        self.serve(socket, limits, move |stream, stop| server.clone().connection(stream, stop));
    }

    /// Serves ttrpc calls. Without `events`, the events of other processes are refused.
    pub(super) fn serve_ttrpc(
        &mut self,
        socket: ListeningSocket,
        images: Arc<dyn Images>,
        catalog: Catalog,
        events: Option<Exchange>,
        limits: &Limits,
    ) {
        let server = TtrpcServer::new(images, catalog, events, limits.clone());
        self.serve(socket, limits, move |stream, stop| server.clone().connection(stream, stop));
    }

    /// Forwards ttrpc connections to containerd.
    pub(super) fn forward_ttrpc(
        &mut self,
        socket: ListeningSocket,
        forwarder: TtrpcForwarder,
        limits: &Limits,
    ) {
        self.serve(socket, limits, move |stream, stop| forwarder.clone().connection(stream, stop));
    }

    fn serve<S, F>(&mut self, socket: ListeningSocket, limits: &Limits, serve: S)
    where
        S: Fn(UnixStream, CancellationToken) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (limits, workers) = (limits.clone(), Arc::clone(&self.workers));
        let stop = self.stopping.clone();
        let server = async move {
            let (name, bound, listener) = socket.into_parts();
            listener::run(&name, listener, &limits, &workers, stop, serve).await;
            drop(bound);
        };
        self.servers.push(tokio::spawn(server.boxed()));
    }
}

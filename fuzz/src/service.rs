//! A whole service over a store in a temporary folder, one for each thread that asks.

use std::future::Future;
use std::sync::Arc;

use lmdb_images::api::images::DeleteImageRequest;
use lmdb_images::api::namespace::{DeleteNamespaceRequest, ListNamespacesRequest};
use lmdb_images::limits::memory::MemoryBudget;
use lmdb_images::model::image::Image;
use lmdb_images::model::{Error, Namespace};
use lmdb_images::service::codec::decode;
use lmdb_images::service::local::LocalImages;
use lmdb_images::service::standalone::Standalone;
use lmdb_images::service::{CallContext, Images};
use lmdb_images::store::{Kind, Records, Store};
use lmdb_images::transport::limits::GRPC_MESSAGE;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Namespaces that inputs name by number: two good ones, some bad ones, none.
pub const NAMESPACES: &[Option<&str>] = &[Some("n"), Some("m.x"), Some(""), Some("-"), None];

/// The service, and what runs it.
pub struct Service {
    runtime: Runtime,
    /// Images.
    pub local: LocalImages,
    /// What is beside them.
    pub alone: Standalone,
    // Last: the store is closed by then.
    _folder: TempDir,
}

thread_local! {
    static SERVICE: Arc<Service> = Arc::new(Service::start());
}

impl Service {
    /// That of this thread.
    pub fn get() -> Arc<Self> {
        SERVICE.with(Arc::clone)
    }

    fn start() -> Self {
        let folder = super::folder();
        let store = Store::open(folder.path()).expect("a store");
        let local = LocalImages::new(store, MemoryBudget::new(64 << 20));
        let alone = Standalone::new(local.clone());
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, local, alone, _folder: folder }
    }

    /// Runs to its end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Removes all there is, so that no input depends on the one before. What calls began that were
    /// left may still be written meanwhile.
    pub fn clear(&self) {
        let anywhere = call(None);
        let left = (0..1000).find(|_| {
            let store = self.local.store();
            for namespace in store.read(|s| s.namespaces()).expect("namespaces") {
                for name in self.names(&namespace) {
                    let request = DeleteImageRequest { name, ..Default::default() };
                    let call = call(Some(namespace.as_str()));
                    is_told(&self.run(self.local.delete(&call, request)));
                }
                let name = namespace.to_string();
                let request = DeleteNamespaceRequest { name, ..Default::default() };
                is_told(&self.run(self.alone.delete_namespace(&anywhere, request)));
            }
            self.run(tokio::task::yield_now());
            let all = ListNamespacesRequest::new();
            let left = self.run(self.alone.list_namespaces(&anywhere, all));
            left.expect("a list").message.is_empty()
        });
        assert!(left.is_some(), "something stays");
    }

    /// The names of all images in a namespace.
    pub fn names(&self, namespace: &Namespace) -> Vec<String> {
        let names = self.local.store().read(|s| {
            s.scan(namespace, Kind::Image)?
                .map(|entry| Ok(decode::<Image>(entry?.message()?)?.name))
                .collect()
        });
        names.expect("names")
    }
}

/// A call in a namespace.
pub fn call(namespace: Option<&str>) -> CallContext {
    CallContext {
        namespace: namespace.map(str::to_owned),
        client: lmdb_images::limits::client::Client::Own,
        actor: lmdb_images::store::Actor::default(),
        reply_limit: GRPC_MESSAGE,
        headers: http::HeaderMap::new(),
    }
}

/// A fault of ours is none of the answers to a bad request.
pub fn is_told<T>(answer: &Result<T, Error>) {
    if let Err(error) = answer {
        let is_ours = matches!(
            error,
            Error::Internal(_) | Error::DataLoss(_) | Error::Unavailable(_) | Error::Upstream(..)
        );
        assert!(!is_ours, "{error:?}");
    }
}

//! A handler that panics.

use super::*;

/// A service with a fault in it.
#[derive(Clone)]
struct Faulty;

impl Router for Faulty {
    async fn route(
        &self,
        asked: IncomingCall,
        _: CancellationToken,
    ) -> Result<http::Response<Body>> {
        if asked.path().ends_with("List") {
            return asked.unary(async |_, _: ListImagesRequest| Ok(Reply::default())).await;
        }
        panic!("on purpose")
    }
}

#[async_trait]
impl Images for Faulty {
    async fn get(&self, _: &CallContext, _: GetImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn list(&self, _: &CallContext, _: ListImagesRequest) -> Result<Reply> {
        Ok(Reply::default())
    }
    async fn create(&self, _: &CallContext, _: CreateImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn update(&self, _: &CallContext, _: UpdateImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
    async fn delete(&self, _: &CallContext, _: DeleteImageRequest) -> Result<Reply> {
        panic!("on purpose")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_internal() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let open = |name: &str| {
        let access = Access { mode: 0o600, uid: None, gid: None };
        Socket::reserve(dir.path().join(name)).unwrap().open(access).unwrap().into_parts()
    };
    let limits = Limits::default();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let local = LocalImages::new(store, MemoryBudget::new(1 << 20));
    let catalog = Catalog::new(local.clone(), Arc::new(local));
    let (grpc, ttrpc) = (open("grpc"), open("ttrpc"));
    let threads = Arc::new(WorkerPool::start().unwrap());
    let servers = {
        let (shared, stop, lent) = (limits.clone(), stopping.clone(), Arc::clone(&threads));
        let grpc = tokio::spawn(async move {
            let limits = shared;
            let service = GrpcServer::new(Faulty, limits.clone());
            listener::run(&grpc.0, grpc.2, &limits, &lent, stop, move |s, stop| {
                service.clone().connection(s, stop)
            })
            .await;
        });
        let ttrpc = tokio::spawn(async move {
            let service = TtrpcServer::new(Arc::new(Faulty), catalog, None, limits.clone());
            listener::run(&ttrpc.0, ttrpc.2, &limits, &threads, stopping, move |s, stop| {
                service.clone().connection(s, stop)
            })
            .await;
        });
        [grpc, ttrpc]
    };
    for client in [
        Client::grpc(&dir.path().join("grpc")).await,
        Client::ttrpc(&dir.path().join("ttrpc")).await,
    ] {
        for method in ["Get", "Create", "Update", "Delete"] {
            let failed = client.raw(method, Some("n"), Vec::new()).await.unwrap_err();
            assert!(failed.is(Code::Internal), "{failed:?}");
        }
        client.raw("List", Some("n"), Vec::new()).await.unwrap();
    }
    stop.cancel();
    for server in servers {
        tokio::time::timeout(TEST_TIMEOUT, server).await.unwrap().unwrap();
    }
}

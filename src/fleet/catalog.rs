//! Reads the catalogue of the node's daemon.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use http::HeaderMap;
use protobuf::{Message, MessageField};
use tonic::Status;

use crate::api::catalog::{
    Change, ChangesRequest, ChangesResponse, HeadRequest, HeadResponse, WatchRequest, WatchResponse,
};
use crate::api::error_details::ErrorInfo;
use crate::containerd::client::{GrpcClient, Replies};
use crate::model::{Error, Result};

/// How long a call may take beyond the time that it may wait.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The daemon of this node.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    daemon: GrpcClient,
}

/// Why changes cannot be read from the requested number on.
#[derive(Debug)]
pub(crate) enum CatalogFailure {
    /// The daemon has another log, or its log no longer has those changes.
    LogChanged,
    /// Another error.
    Other(Error),
}

impl Catalog {
    /// The daemon at a socket. The first call connects to it.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { daemon: GrpcClient::lazy(socket) }
    }

    /// The store and the ends of its log.
    pub(crate) async fn head(&self) -> Result<HeadResponse> {
        let path = "/lmdbimages.v1.Catalog/Head";
        let (headers, request) = (HeaderMap::new(), HeadRequest::default());
        let call = self.daemon.call(path, None, &headers, request);
        let head: HeadResponse = self.with_timeout(REPLY_TIMEOUT, call).await??;
        if head.epoch.is_empty() {
            return Err(Error::FailedPrecondition(format!(
                "the daemon at {} keeps no log of changes: set its log-keep above 0",
                self.daemon.socket().display()
            )));
        }
        Ok(head)
    }

    /// The changes from a number on; waits at most `wait` for the first.
    pub(crate) async fn changes(
        &self,
        log: &str,
        from: u64,
        wait: Duration,
    ) -> Result<ChangesResponse, CatalogFailure> {
        let request = ChangesRequest {
            epoch: log.into(),
            from,
            wait: MessageField::some(protobuf::well_known_types::duration::Duration {
                seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(wait.subsec_nanos()).unwrap_or_default(),
                ..Default::default()
            }),
            ..ChangesRequest::default()
        };
        let (path, headers) = ("/lmdbimages.v1.Catalog/Changes", HeaderMap::new());
        let call = self.daemon.call(path, None, &headers, request);
        let timeout = wait.saturating_add(REPLY_TIMEOUT);
        let called = self.call_with_timeout(timeout, call).await.map_err(CatalogFailure::Other)?;
        called.map_err(|status| match is_log_changed(&status) {
            true => CatalogFailure::LogChanged,
            false => CatalogFailure::Other(self.failed(&status)),
        })
    }

    /// All images of all namespaces, and then the changes after them.
    pub(crate) async fn watch_all(&self) -> Result<Replies<WatchResponse>> {
        let request = WatchRequest { initial_state: true, ..WatchRequest::default() };
        let call = self.daemon.stream("/lmdbimages.v1.Catalog/Watch", request);
        self.with_timeout(REPLY_TIMEOUT, call).await?
    }

    /// The next message of a watch.
    pub(crate) async fn next(&self, watch: &mut Replies<WatchResponse>) -> Result<WatchResponse> {
        let next = self.with_timeout(REPLY_TIMEOUT, watch.message()).await??;
        next.ok_or_else(|| {
            Error::Unavailable(format!(
                "the daemon at {} ended the list of its images",
                self.daemon.socket().display()
            ))
        })
    }

    /// The change of a number, if it is still kept.
    pub(crate) async fn change(&self, log: &str, seq: u64) -> Result<Option<Change>> {
        match self.changes(log, seq, Duration::ZERO).await {
            Ok(found) => Ok(found.changes.into_iter().next()),
            Err(CatalogFailure::LogChanged) => Ok(None),
            Err(CatalogFailure::Other(error)) => Err(error),
        }
    }

    async fn with_timeout<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Result<T>> {
        let called = self.call_with_timeout(time, call).await?;
        Ok(called.map_err(|status| self.failed(&status)))
    }

    async fn call_with_timeout<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Result<T, Status>> {
        let late = || self.error(format_args!("no answer within {} s", time.as_secs()));
        tokio::time::timeout(time, call).await.map_err(|_| late())
    }

    fn failed(&self, status: &Status) -> Error {
        let hint = match status.code() {
            tonic::Code::Unimplemented | tonic::Code::PermissionDenied => {
                ": it is no lmdb-images that has the service lmdbimages.v1.Catalog"
            }
            _ => "",
        };
        self.error(format_args!("{:?}: {}{hint}", status.code(), status.message()))
    }

    fn error(&self, what: fmt::Arguments<'_>) -> Error {
        Error::Unavailable(format!("the daemon at {}: {what}", self.daemon.socket().display()))
    }
}

/// Whether an error says that the daemon has another log, or that its log begins later.
fn is_log_changed(status: &Status) -> bool {
    let details = crate::api::status::Status::parse_from_bytes(status.details());
    details.is_ok_and(|details| {
        details.details.iter().any(|any| {
            ErrorInfo::parse_from_bytes(&any.value).is_ok_and(|info| {
                ["COMPACTED", "AHEAD", "EPOCH_CHANGED"].contains(&info.reason.as_str())
            })
        })
    })
}

//! The catalogue of a running daemon, as the commands call it.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::api::ApiMessage;
use crate::api::error_details::ErrorInfo;
use crate::api::status::Status;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result};

/// How long the daemon may take for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// gRPC's code for a server that cannot be reached.
const UNAVAILABLE: i32 = 14;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct CallError {
    /// The status code.
    code: i32,
    message: String,
    /// The reason for programs, or empty.
    pub(crate) reason: String,
}

impl CallError {
    /// The error of a status: its code, its message, and its details.
    pub(crate) fn new(code: i32, message: &str, details: &[u8]) -> Self {
        let status = Status::parse_from_bytes(details).unwrap_or_default();
        let is_info =
            |detail: &&Any| detail.type_url.rsplit('/').next() == Some(ErrorInfo::LAYOUT.name);
        let detail = status.details.first().filter(is_info);
        let info = detail.and_then(|detail| ErrorInfo::parse_from_bytes(&detail.value).ok());
        let info = info.unwrap_or_default();
        Self { code, message: message.into(), reason: info.reason }
    }

    /// The error of a daemon that has gone.
    pub(crate) fn unreachable(message: &str) -> Self {
        Self::new(UNAVAILABLE, message, &[])
    }

    /// Whether the daemon cannot be reached, or is stopping.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == UNAVAILABLE
    }
}

/// A daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    /// The daemon behind a gRPC socket. Each call connects to it.
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// A client of it. Call it on a runtime.
    pub(crate) fn grpc(&self) -> GrpcClient {
        // `lazy` asks for no containerd at the other end.
        GrpcClient::lazy(&self.socket)
    }

    /// An error as a command prints it.
    pub(crate) fn error(&self, error: CallError) -> Error {
        if error.is_unreachable() {
            let socket = self.socket.display();
            return Error::Unavailable(format!(
                "cannot call the daemon at {socket}: {}",
                error.message
            ));
        }
        Error::Upstream(error.code, error.message)
    }

    /// Makes a call, and gives the error as it came.
    pub(crate) async fn try_call<R: Message>(
        &self,
        path: &'static str,
        namespace: Option<&Namespace>,
        request: impl Message,
    ) -> std::result::Result<R, CallError> {
        let headers = HeaderMap::new();
        let grpc = self.grpc();
        let call = grpc.call(path, namespace, &headers, request);
        match tokio::time::timeout(REPLY_TIMEOUT, call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => {
                Err(CallError::new(status.code() as i32, status.message(), status.details()))
            }
            Err(_) => {
                let what = format!("no answer within {} s", REPLY_TIMEOUT.as_secs());
                Err(CallError::new(UNAVAILABLE, &what, &[]))
            }
        }
    }

    /// Makes a call.
    pub(crate) async fn call<R: Message>(
        &self,
        path: &'static str,
        namespace: Option<&Namespace>,
        request: impl Message,
    ) -> Result<R> {
        self.try_call(path, namespace, request).await.map_err(|e| self.error(e))
    }
}

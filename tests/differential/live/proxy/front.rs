//! A daemon in front of a real containerd, and calls of any service on either.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use lmdb_images::daemon::Daemon;
use lmdb_images::metrics::ReadSource;
use lmdb_images::transport::Limits;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::support::containerd::Containerd;
use crate::support::{Failed, Raw, channel_for_long_errors, config};

/// The longest time for one step of a test.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Front {
    pub containerd: Containerd,
    pub daemon: Daemon,
    pub direct: Channel,
    pub through: Channel,
    _dir: TempDir,
}

/// What a call gave: its messages, and its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub messages: Vec<Vec<u8>>,
    pub status: Result<(), Failed>,
}

impl Front {
    /// Returns when the daemon reads containerd's files.
    pub async fn start(bin: &Path) -> Self {
        let containerd = Containerd::start(bin).await;
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), Limits::default());
        config.containerd = Some(containerd.socket());
        let daemon = Daemon::start(&config).await.unwrap();
        let direct = channel_for_long_errors(&containerd.socket()).await.unwrap();
        let through = channel_for_long_errors(daemon.containerd_socket().unwrap()).await.unwrap();
        let front = Self { containerd, daemon, direct, through, _dir: dir };
        front.until_live(true).await;
        front
    }

    /// Connects to a containerd that started again.
    pub async fn reconnect(&mut self) {
        self.direct = channel_for_long_errors(&self.containerd.socket()).await.unwrap();
    }

    /// Waits until the daemon reads containerd's files, or does not.
    pub async fn until_live(&self, wanted: bool) {
        let live = || self.daemon.proxy().unwrap().live().is_some();
        let changed = async {
            while live() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, changed)
            .await
            .expect("the files are not found, or not lost");
    }

    /// How many reads containerd's files have answered.
    pub fn answered_from_files(&self) -> u64 {
        self.daemon.proxy().unwrap().upstream().reads(ReadSource::Files)
    }

    /// The folder of containerd's data.
    pub fn root(&self) -> PathBuf {
        self.containerd.socket().with_file_name("root")
    }

    pub fn database(&self) -> PathBuf {
        self.root().join("io.containerd.metadata.v1.bolt/meta.db")
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        let blobs = self.root().join("io.containerd.content.v1.content/blobs");
        blobs.join(digest.replace(':', "/"))
    }

    /// The answer of either side, which must be the same.
    pub async fn same(&self, path: &str, namespace: Option<&str>, message: Vec<u8>) -> Answer {
        let direct = call(&self.direct, path, namespace, message.clone()).await;
        let through = call(&self.through, path, namespace, message.clone()).await;
        let at = || format!("{path} in {namespace:?}: {message:02x?}");
        assert_eq!(direct.status, through.status, "{}", at());
        let sizes = |answer: &Answer| answer.messages.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&direct), sizes(&through), "{}", at());
        assert!(direct.messages == through.messages, "other bytes: {}", at());
        direct
    }
}

/// One call with one message, and all messages of its answer.
pub async fn call(
    channel: &Channel,
    path: &str,
    namespace: Option<&str>,
    message: Vec<u8>,
) -> Answer {
    let mut request = tonic::Request::new(message);
    if let Some(namespace) = namespace {
        let value = MetadataValue::try_from(namespace.as_bytes()).unwrap();
        request.metadata_mut().insert("containerd-namespace", value);
    }
    let path = PathAndQuery::try_from(format!("/containerd.services.{path}")).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    let mut messages = Vec::new();
    let answer = async {
        let mut stream = grpc.server_streaming(request, path, Raw).await?.into_inner();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(())
    };
    let status: Result<(), tonic::Status> =
        tokio::time::timeout(TEST_TIMEOUT, answer).await.expect("a call hangs");
    let status =
        status.map_err(|s| Failed { code: s.code() as i32, message: s.message().to_owned() });
    Answer { messages, status }
}

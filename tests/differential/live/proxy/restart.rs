//! A containerd that hangs or is down, also just after it started again, and a daemon that starts while it
//! is down. A read is never older than an answer that containerd has given, and names are served.
//!
//! `LMDB_IMAGES_LINEARIZABLE_DAEMON` names another `lmdb-images` to be tried, such as an older one.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lmdb_images::api::images::{
    CreateImageResponse, GetImageRequest, GetImageResponse, Image, ListImagesRequest,
    ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use protobuf::MessageField;
use tempfile::TempDir;
use tonic::Code;

use super::front::TEST_TIMEOUT;
use crate::support::containerd::Containerd;
use crate::support::daemon_process::DaemonProcess;
use crate::support::{Client, Failed, create, image};

/// Sooner than a call to containerd is given up.
const AT_ONCE: Duration = Duration::from_secs(4);

/// The image `a` has the size that was written last.
struct Pair {
    containerd: Containerd,
    daemon: Option<DaemonProcess>,
    dir: TempDir,
}

fn sized(name: &str, size: i64) -> Image {
    let mut image = image(name);
    image.target.mut_or_insert_default().size = size;
    image
}

impl Pair {
    /// Returns when the daemon shows the image.
    async fn start() -> Self {
        let containerd = Containerd::start(&Containerd::bin()).await;
        let mut pair = Self { containerd, daemon: None, dir: tempfile::tempdir().unwrap() };
        let made: Result<CreateImageResponse, _> =
            pair.containerd.client().await.call("Create", "n", &create(sized("a", 1))).await;
        made.unwrap();
        pair.start_daemon();
        let known = async {
            while pair.size().await != Ok(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, known).await.expect("the image is not there");
        pair
    }

    fn start_daemon(&mut self) {
        let environment = [("LMDB_IMAGES_CONTAINERD", self.containerd.socket().into_os_string())];
        let dir = self.dir.path();
        self.daemon = Some(match std::env::var_os("LMDB_IMAGES_LINEARIZABLE_DAEMON") {
            Some(other) => DaemonProcess::start_other(other.as_ref(), dir, &environment),
            None => DaemonProcess::start_in(dir, &environment),
        });
    }

    fn daemon(&self) -> &DaemonProcess {
        self.daemon.as_ref().unwrap()
    }

    /// Changes the image on containerd's own socket.
    async fn update(&self, size: i64) {
        let request = UpdateImageRequest {
            image: MessageField::some(sized("a", size)),
            ..Default::default()
        };
        let client = self.containerd.client().await;
        let made: Result<UpdateImageResponse, _> = client.call("Update", "n", &request).await;
        assert_eq!(made.unwrap().image.target.size, size);
    }

    fn ours(&self, socket: &str) -> PathBuf {
        self.dir.path().join("state").join(socket)
    }

    async fn clients(&self) -> [Client; 3] {
        [
            Client::grpc(&self.ours("containerd.sock")).await,
            Client::grpc(&self.ours("images.sock")).await,
            Client::ttrpc(&self.ours("images.sock.ttrpc")).await,
        ]
    }

    async fn size(&self) -> Result<i64, Failed> {
        size_by(&Client::grpc(&self.ours("images.sock")).await).await
    }

    /// All our sockets show that size, by a Get and by Lists, each without waiting for containerd.
    async fn shows(&self, size: i64, when: &str) {
        let is_at_once = |begun: Instant| {
            let took = begun.elapsed();
            assert!(took < AT_ONCE, "{when}: {took:?}");
        };
        for client in self.clients().await {
            let begun = Instant::now();
            assert_eq!(size_by(&client).await, Ok(size), "{when}");
            is_at_once(begun);
            for filters in [vec![], vec!["name==a".to_owned()]] {
                let request = ListImagesRequest { filters, ..Default::default() };
                let begun = Instant::now();
                let listed: Result<ListImagesResponse, _> =
                    client.call("List", "n", &request).await;
                is_at_once(begun);
                let sizes: Vec<_> =
                    listed.unwrap().images.iter().map(|image| image.target.size).collect();
                assert_eq!(sizes, [size], "{when}");
            }
        }
    }
}

async fn size_by(client: &Client) -> Result<i64, Failed> {
    let request = GetImageRequest { name: "a".into(), ..Default::default() };
    let found: GetImageResponse = client.call("Get", "n", &request).await?;
    Ok(found.image.target.size)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_containerd_that_hangs_after_its_start_is_read_by_its_files() {
    let mut pair = Pair::start().await;
    // So the daemon sees neither the change nor where the new containerd has its files.
    pair.daemon().signal("STOP");
    pair.containerd.kill();
    pair.containerd.start_again().await;
    pair.update(2).await;
    pair.containerd.signal("STOP");
    pair.daemon().signal("CONT");
    pair.shows(2, "containerd hangs").await;
    pair.containerd.signal("CONT");
    pair.update(3).await;
    pair.shows(3, "containerd goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_daemon_that_starts_without_containerd_reads_its_files() {
    let mut pair = Pair::start().await;
    drop(pair.daemon.take());
    pair.update(2).await;
    pair.containerd.kill();
    pair.start_daemon();
    pair.shows(2, "containerd is down").await;
    pair.containerd.start_again().await;
    pair.update(3).await;
    pair.containerd.signal("STOP");
    pair.shows(3, "containerd came and hangs").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn the_files_are_not_read_if_another_containerd_may_listen() {
    let mut pair = Pair::start().await;
    pair.containerd.kill();
    pair.shows(1, "containerd is down").await;
    std::fs::remove_file(pair.containerd.socket()).unwrap();
    pair.shows(1, "its socket is gone").await;
    // This process accepts calls and answers none. It may be a containerd that has changed records in another file.
    let other = UnixListener::bind(pair.containerd.socket()).unwrap();
    let failed = pair.size().await.unwrap_err();
    assert!(failed.is(Code::Unavailable), "{failed:?}");
    assert!(failed.message.contains("did not answer within"), "{failed:?}");
    drop(other);
    pair.shows(1, "nothing listens").await;
}

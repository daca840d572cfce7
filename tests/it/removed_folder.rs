//! A store's folder that is removed or replaced beneath a running daemon, and a folder of sockets that
//! two daemons want.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lmdb_images::api::health::{HealthCheckRequest, HealthCheckResponse};
use lmdb_images::api::images::{CreateImageResponse, GetImageRequest, GetImageResponse};
use protobuf::Message;
use tonic::Code;

use crate::support;
use crate::support::daemon_process::DaemonProcess;
use crate::support::{Client, create, image};

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

/// Much longer than the interval at which the daemon checks its folder.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

async fn watch_health(socket: &Path) -> tonic::Streaming<Vec<u8>> {
    let mut grpc = tonic::client::Grpc::new(support::channel(socket).await.unwrap());
    grpc.ready().await.unwrap();
    let request = HealthCheckRequest::default().write_to_bytes().unwrap();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
    let reply = grpc.server_streaming(tonic::Request::new(request), path, support::Raw);
    reply.await.unwrap().into_inner()
}

/// Waits for a status. The daemon first sends the status of a moment ago, which may differ.
async fn becomes(health: &mut tonic::Streaming<Vec<u8>>, status: i32) {
    let change = async {
        loop {
            let message = health.message().await.unwrap().unwrap();
            let reply = HealthCheckResponse::parse_from_bytes(&message).unwrap();
            if reply.status.value() == status {
                return;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, change).await.expect("no change of health");
}

/// Whether the error is of the collection at the start: this is a write, and may come after the removal of the folder.
fn is_of_collector(error: &str) -> bool {
    error.contains("collecting what has expired")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_folder_is_removed_or_replaced_says_so_and_takes_no_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (root, away) = (dir.path().join("root"), dir.path().join("away"));
    let daemon = DaemonProcess::start(dir.path());
    let socket = dir.path().join("state/images.sock");
    let client = Client::grpc(&socket).await;
    let make = async |name: &str| {
        client.call::<CreateImageResponse>("Create", "n", &create(image(name))).await
    };
    make("before").await.unwrap();
    for (number, replaced) in [false, true].into_iter().enumerate() {
        fs::rename(&root, &away).unwrap();
        if replaced {
            fs::create_dir(&root).unwrap();
        }
        // Nothing is asked of the daemon until then.
        let logged = loop {
            let error = daemon.error();
            if !is_of_collector(&error) {
                break error;
            }
        };
        assert!(logged.contains("the store's files are no longer those in"), "{logged}");
        let mut health = watch_health(&socket).await;
        becomes(&mut health, NOT_SERVING).await;
        let refused = make(&format!("during{number}")).await.unwrap_err();
        assert!(refused.is(Code::Unavailable), "{refused:?}");
        let why = if replaced { "root was replaced" } else { "root was removed" };
        assert!(refused.message.contains(why), "{refused:?}");
        let get = GetImageRequest { name: "before".into(), ..Default::default() };
        client.call::<GetImageResponse>("Get", "n", &get).await.unwrap();
        fs::rename(&away, &root).unwrap();
        becomes(&mut health, SERVING).await;
        make(&format!("after{number}")).await.unwrap();
    }
    let more: Vec<_> =
        daemon.more_errors().into_iter().filter(|error| !is_of_collector(error)).collect();
    assert!(more.is_empty(), "the log repeats itself: {more:?}");
    daemon.stop();
}

/// Killed when it is dropped, however the test ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of daemons that start at once with one folder of sockets, one serves; the others name it.
#[test]
fn only_one_of_many_starting_daemons_gets_the_folder_of_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for round in 0..5 {
        let serve = |number: u32| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lmdb-images"));
            let root = dir.path().join(format!("{round}-{number}"));
            command.args([
                Path::new("serve"),
                Path::new("--root"),
                &root,
                Path::new("--state"),
                &state,
            ]);
            Daemon(command.stderr(Stdio::piped()).spawn().unwrap())
        };
        let mut daemons: Vec<_> = (0..3).map(serve).collect();
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        while daemons.len() > 1 {
            assert!(std::time::Instant::now() < deadline, "{} daemons live", daemons.len());
            let ended =
                daemons.iter_mut().position(|daemon| daemon.0.try_wait().unwrap().is_some());
            let Some(ended) = ended else {
                std::thread::yield_now();
                continue;
            };
            let mut said = String::new();
            daemons.remove(ended).0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert!(said.contains("is in use by another daemon ("), "{said}");
            let name = state.display().to_string();
            assert!(said.contains(&name), "{said}");
        }
        // The last daemon is killed here, so the next round finds its files.
    }
}

//! A daemon under a limit on file sizes (`ulimit -f`) refuses what has no room, and goes on.

use lmdb_images::api::images::{CreateImageResponse, GetImageRequest, GetImageResponse};
use tonic::Code;

use crate::support::Client;
use crate::support::client::{create, image};
use crate::support::daemon_process::DaemonProcess;

fn named(name: &str) -> GetImageRequest {
    GetImageRequest { name: name.into(), ..GetImageRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_most_size_is_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("state/images.sock.ttrpc");
    // 512 bytes a unit.
    let daemon = DaemonProcess::start_with_limit(dir.path(), "-f 4000");
    let client = Client::ttrpc(&socket).await;
    let mut stored = 0;
    let refused = loop {
        let mut image = image(&format!("i{stored}"));
        image.labels.extend((0..10).map(|n| (n.to_string(), "v".repeat(4000))));
        match client.call::<CreateImageResponse>("Create", "n", &create(image)).await {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
        assert!(stored < 1000, "there is room for a thousand images in 2 MB");
    };
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    assert!(stored > 10, "{stored}");
    let last = format!("i{}", stored - 1);
    client.call::<GetImageResponse>("Get", "n", &named(&last)).await.unwrap();
    daemon.kill();
    let daemon = DaemonProcess::start(dir.path());
    let client = Client::ttrpc(&socket).await;
    for n in 0..stored {
        let name = format!("i{n}");
        client.call::<GetImageResponse>("Get", "n", &named(&name)).await.unwrap();
    }
    let absent = format!("i{stored}");
    let absent = client.call::<GetImageResponse>("Get", "n", &named(&absent)).await;
    assert!(absent.unwrap_err().is(Code::NotFound), "a refused image is stored");
    daemon.stop();
}

//! Faults of containerd's files: its own answer or its own error, never other bytes, never a hang.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use lmdb_images::api::content::ReadContentResponse;
use protobuf::Message;
use tonic::Code;

use super::content::{create, create_namespace, digest, named, put, read};
use super::front::{Front, TEST_TIMEOUT, call};
use crate::support::containerd::Containerd;
use crate::support::image;

const READ: &str = "content.v1.Content/Read";
const INFO: &str = "content.v1.Content/Info";
const GET: &str = "images.v1.Images/Get";
const NAMESPACE: &str = "namespaces.v1.Namespaces/Get";

/// More than one piece.
fn blob() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n % 251) as u8).collect()
}

/// A front with a blob, an image and a label.
async fn start() -> (Front, String) {
    let front = Front::start(&Containerd::bin()).await;
    create_namespace(&front.direct, "n", &[("k".into(), "v".into())]).await;
    // containerd collects what nothing refers to when it starts.
    let root = ("containerd.io/gc.root".into(), "1".into());
    put(&front.direct, "n", &blob(), &[root]).await;
    create(&front.direct, "n", image("a")).await;
    (front, digest(&blob()))
}

impl Front {
    /// Whether the same answers come from either side, and from the files if `from_files`.
    async fn agrees(&self, digest: &str, from_files: bool) {
        let before = self.answered_from_files();
        for offset in [0, 1, 1 << 20, 2_999_999, 3_000_000, 3_000_001] {
            self.same(READ, Some("n"), read(digest, offset, 0)).await;
        }
        self.same(INFO, Some("n"), named(digest)).await;
        self.same(GET, Some("n"), named("a")).await;
        self.same(GET, Some("n"), named("b")).await;
        self.same(NAMESPACE, Some("n"), named("n")).await;
        let answered = self.answered_from_files() - before;
        assert_eq!(answered > 0, from_files, "{answered} were answered from files");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn containerd_answers_for_a_blob_whose_file_is_wrong() {
    let (front, digest) = start().await;
    front.agrees(&digest, true).await;
    let path = front.blob(&digest);
    let aside = path.with_extension("aside");
    let pieces = async || front.same(READ, Some("n"), read(&digest, 0, 0)).await.messages.len();
    assert_eq!(pieces().await, 3);
    fs::rename(&path, &aside).unwrap();
    assert_eq!(pieces().await, 0, "it is missing");
    symlink(&aside, &path).unwrap();
    assert_eq!(pieces().await, 3, "containerd follows a link");
    fs::remove_file(&path).unwrap();
    fs::write(&path, &blob()[..1_500_000]).unwrap();
    assert_eq!(pieces().await, 2, "it is cut");
    fs::write(&path, [&blob()[..], b"more"].concat()).unwrap();
    assert_eq!(pieces().await, 3, "it is longer");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    pieces().await;
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    front.agrees(&digest, true).await;
    front.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_database_that_is_replaced_is_not_read() {
    let (front, digest) = start().await;
    let path = front.database();
    let aside = path.with_extension("aside");
    // containerd goes on with the file that it has open.
    fs::rename(&path, &aside).unwrap();
    front.agrees(&digest, false).await;
    fs::copy(&aside, &path).unwrap();
    create(&front.direct, "n", image("b")).await;
    front.agrees(&digest, false).await;
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    front.agrees(&digest, true).await;
    front.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn containerd_answers_for_a_record_that_cannot_be_decoded() {
    let (front, digest) = start().await;
    // containerd maps the file, so it sees the change, too.
    let file = fs::File::options().write(true).open(front.database()).unwrap();
    let replace = |from: &[u8], to: &[u8]| {
        let bytes = fs::read(front.database()).unwrap();
        for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)) {
            file.write_all_at(to, at as u64).unwrap();
        }
    };
    let (sound, broken) = (b"createdat\x01", b"createdat\x09");
    replace(sound, broken);
    for (path, name) in [(GET, "a"), (INFO, digest.as_str())] {
        let answer = front.same(path, Some("n"), named(name)).await;
        assert!(answer.status.unwrap_err().message.contains("unsupported version"));
    }
    replace(broken, sound);
    front.agrees(&digest, true).await;
    front.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_database_that_is_cut_is_not_read() {
    let (mut front, digest) = start().await;
    front.containerd.kill();
    let file = fs::File::options().write(true).open(front.database()).unwrap();
    for length in [100_000, 20_000, 9000, 100, 0] {
        file.set_len(length).unwrap();
        // The copy has what the file had.
        let answer = call(&front.through, GET, Some("n"), named("a")).await;
        assert_eq!(answer.status, Ok(()), "{length}");
        let answer = call(&front.through, READ, Some("n"), read(&digest, 0, 0)).await;
        assert!(length > 9000 || answer.status.unwrap_err().is(Code::Unavailable), "{length}");
    }
    front.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_containerd_that_starts_again_is_found_again() {
    let (mut front, digest) = start().await;
    for round in 0..3 {
        front.containerd.kill();
        // The file is as containerd left it, so names can be read; nothing else is promised.
        let answer = call(&front.through, GET, Some("n"), named("a")).await;
        assert_eq!(answer.status, Ok(()), "round {round}");
        let answer = call(&front.through, "content.v1.Content/Status", Some("n"), named("x")).await;
        assert!(answer.status.unwrap_err().is(Code::Unavailable));
        front.containerd.start_again().await;
        front.reconnect().await;
        // Before the daemon has found the files again, containerd answers.
        create(&front.direct, "n", image(&format!("r{round}"))).await;
        front.same(GET, Some("n"), named(&format!("r{round}"))).await;
        front.until_live(true).await;
        front.agrees(&digest, true).await;
    }
    front.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_read_goes_on_though_containerd_is_killed() {
    let (mut front, digest) = start().await;
    let whole = tokio::spawn({
        let (channel, digest) = (front.through.clone(), digest.clone());
        async move { call(&channel, READ, Some("n"), read(&digest, 0, 0)).await }
    });
    front.containerd.kill();
    let answer = tokio::time::timeout(TEST_TIMEOUT, whole).await.expect("it hangs").unwrap();
    match answer.status {
        Ok(()) => {
            let piece = |m: &Vec<u8>| ReadContentResponse::parse_from_bytes(m).unwrap().data;
            let data: Vec<u8> = answer.messages.iter().flat_map(piece).collect();
            assert!(data == blob(), "other bytes");
        }
        Err(e) => assert!(e.is(Code::Unavailable), "{e:?}"),
    }
    front.daemon.stop().await;
}

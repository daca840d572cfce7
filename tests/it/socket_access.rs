//! A client without rights never reaches a socket, not even between its making and its mode.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use lmdb_images::daemon::sockets::{Access, Socket};
use rustix::fs::Mode;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::support;

/// A user and a group that own nothing here.
const STRANGER: u32 = 65_534;

const STARTS: usize = 2000;

/// Connects to all of `paths`, and looks at their modes, for as long as `goes_on`. It gives up root's rights
/// first; any other user has none on a socket of mode 0. A mode that lets it connect counts as reached: the
/// kernel checks it before it looks whether the socket listens, and much can happen between the two.
fn connect_without_rights(
    paths: Vec<PathBuf>,
    goes_on: Arc<AtomicBool>,
    reached: Arc<AtomicUsize>,
    tried: Arc<AtomicUsize>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            // Of this thread only.
            let (uid, gid) = (Uid::from_raw(STRANGER), Gid::from_raw(STRANGER));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        while goes_on.load(Ordering::Relaxed) {
            for path in &paths {
                let admits = std::fs::symlink_metadata(path).is_ok_and(|m| m.mode() & 0o777 != 0);
                let is_reached = UnixStream::connect(path).is_ok() || admits;
                reached.fetch_add(usize::from(is_reached), Ordering::Relaxed);
                tried.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
}

#[test]
fn a_client_without_rights_never_connects_during_a_start() {
    // In a process of its own: all threads share the umask.
    let output = support::rerun("socket_access::connect_at_every_start").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[tokio::test]
#[ignore = "run by the other test, as another process"]
async fn connect_at_every_start() {
    umask(Mode::empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let path = folder.path().join("images.sock");
    // The name that a socket has at first; when it changes, the control below fails.
    let first = folder.path().join(format!(".{}", std::process::id()));
    let (goes_on, reached) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
    let tried = Arc::<AtomicUsize>::default();
    let paths = vec![first, path.clone()];
    let client = connect_without_rights(
        paths,
        Arc::clone(&goes_on),
        Arc::clone(&reached),
        Arc::clone(&tried),
    );
    // The client has tried both paths, and more, since this was called.
    let wait_for_tries = || {
        let before = tried.load(Ordering::Relaxed);
        while tried.load(Ordering::Relaxed) < before + 4 && !client.is_finished() {
            std::thread::yield_now();
        }
    };
    let start = |mode| {
        let access = Access { mode, uid: None, gid: None };
        Socket::reserve(path.clone()).unwrap().open(access).unwrap().into_parts()
    };
    // The control: with a mode for all, the client gets through.
    while reached.load(Ordering::Relaxed) == 0 {
        let open = start(0o666);
        while reached.load(Ordering::Relaxed) == 0 && !client.is_finished() {
            std::thread::yield_now();
        }
        drop(open);
        assert!(!client.is_finished(), "the client ended");
    }
    wait_for_tries();
    reached.store(0, Ordering::Relaxed);
    for _ in 0..STARTS {
        let open = start(0);
        wait_for_tries();
        drop(open);
    }
    goes_on.store(false, Ordering::Relaxed);
    client.join().unwrap();
    assert_eq!(reached.load(Ordering::Relaxed), 0, "connections without rights");
}

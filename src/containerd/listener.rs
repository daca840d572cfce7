//! Finds the process that listens on a socket. The kernel reports it, even if the process does not answer.

use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};

/// The process that listens on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// No process listens.
    Absent,
    /// The process with this number.
    Process(i32),
    /// A process that is not known, such as one outside this process's namespace of process numbers.
    Unknown,
}

impl Listener {
    /// Connects to the socket, and sends nothing.
    pub(crate) fn find(path: &Path) -> Self {
        match process(path) {
            Ok(number) if number > 0 => Self::Process(number),
            // A socket that is bound and does not listen yet refuses, too.
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => Self::Absent,
            Ok(_) | Err(_) => Self::Unknown,
        }
    }
}

/// The process that called `listen`, or 0.
fn process(path: &Path) -> nix::Result<i32> {
    // A listener with too many connections that wait would block this thread.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(getsockopt(&stream, PeerCredentials)?.pid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_process_that_listens_is_known_though_it_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(Listener::find(&path), Listener::Absent, "there is no file");
        let listener = UnixListener::bind(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Listener::find(&path), Listener::Process(own));
        drop(listener);
        assert_eq!(Listener::find(&path), Listener::Absent, "its file is left");
        assert_eq!(Listener::find(Path::new(&"x".repeat(200))), Listener::Unknown);
    }
}

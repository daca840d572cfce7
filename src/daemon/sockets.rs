//! Creates listening sockets with an owner and a mode.
//!
//! A socket is bound under a temporary name with mode 0, gets its owner and mode, starts to listen, and
//! is then renamed to its path. The mode is 0 from the first moment, whatever the umask: the kernel
//! checks a client's rights before it looks whether the socket listens, so a client that passes the
//! check before the mode is set could be accepted after. The rename replaces only a socket that no
//! process answers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};

use crate::model::{Context, Error, Result};
use crate::store::dir::lock_file;
use crate::store::dir::lock_file::{LockError, LockFile};
use crate::store::dir::permissions;

/// Names of the sockets, as files and for systemd.
pub(crate) const IMAGES_SOCK: &str = "images.sock";
pub(crate) const TTRPC_SOCK: &str = "images.sock.ttrpc";
pub(crate) const CONTAINERD_SOCK: &str = "containerd.sock";
pub(crate) const CONTAINERD_TTRPC: &str = "containerd.sock.ttrpc";
pub(crate) const READONLY_SOCK: &str = "readonly.sock";
pub(crate) const SOCKETS: [&str; 5] =
    [IMAGES_SOCK, TTRPC_SOCK, CONTAINERD_SOCK, CONTAINERD_TTRPC, READONLY_SOCK];

/// Longest path of a socket in bytes: the size of `sun_path` without the final zero.
pub(crate) const MAX_PATH_BYTES: usize = 107;

/// Connections that may wait to be accepted.
const MAX_BACKLOG: u32 = 1024;

/// Permission to connect to a socket.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner; `None` for that of the process.
    pub uid: Option<u32>,
    /// Group; `None` for that of the process.
    pub gid: Option<u32>,
}

/// The socket of the upstream containerd. Its permissions are those of our proxy sockets too.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamSocket {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Mode, owner and group of the socket. If it does not exist yet: mode 0600, for our user only.
    pub access: Access,
}

impl UpstreamSocket {
    /// Reads the permissions of the socket.
    ///
    /// # Errors
    /// `InvalidArgument` if the socket lies in the folder `state` of our own sockets.
    pub(crate) fn inspect(socket: &Path, state: &Path) -> Result<Self> {
        let absolute = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute(socket).parent().map(absolute);
        if folder.is_some_and(|folder| folder == absolute(state)) {
            return Err(Error::InvalidArgument(format!(
                "--containerd {} lies in the folder of our own sockets: name containerd's socket",
                socket.display()
            )));
        }
        let access = match fs::metadata(socket) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::InvalidArgument(format!(
                    "{} is not a socket: name containerd's socket",
                    socket.display()
                )));
            }
            Ok(found) => Access {
                mode: found.mode() & 0o777,
                uid: Some(found.uid()),
                gid: Some(found.gid()),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Access { mode: 0o600, uid: None, gid: None }
            }
            Err(e) => return Err(Error::Internal(format!("looking at {}: {e}", socket.display()))),
        };
        Ok(Self { socket: socket.to_owned(), access })
    }

    /// The ttrpc socket of the same containerd: its gRPC address with `.ttrpc` appended.
    pub(crate) fn ttrpc(&self, state: &Path) -> Result<Self> {
        let mut socket = self.socket.clone().into_os_string();
        socket.push(".ttrpc");
        Self::inspect(Path::new(&socket), state)
    }
}

/// Lock file of the daemon in the folder of the sockets.
const LOCK_FILE: &str = "daemon.lock";

/// The folder of the sockets, locked: one daemon at a time may use it.
#[derive(Debug)]
pub(crate) struct StateFolder {
    _lock: LockFile,
}

impl StateFolder {
    /// Creates the folder if it is missing, and locks it. Its mode 0711 lets other users reach the
    /// sockets, whose own modes decide.
    ///
    /// # Errors
    /// `FailedPrecondition` if another daemon has the lock, or if others may write to the folder.
    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        let path = permissions::create_private(path, 0o711)?;
        let lock = LockFile::acquire(&path.join(LOCK_FILE)).map_err(|e| match e {
            LockError::Held(holder) => Error::FailedPrecondition(format!(
                "the folder of sockets {} is in use by another daemon ({}): stop it, or choose another \
                 --state",
                path.display(),
                lock_file::describe(holder)
            )),
            LockError::Io(doing, e) => {
                Error::Internal(format!("{doing} {LOCK_FILE} in {}: {e}", path.display()))
            }
        })?;
        Ok(Self { _lock: lock })
    }
}

/// Creates the folder of a future socket if it is missing. Refuses a folder that others may write to.
pub(crate) fn check_folder_of(socket: &Path) -> Result<()> {
    let parent = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
    permissions::create_private(parent.unwrap_or(Path::new(".")), 0o711).map(drop)
}

/// A path at which a socket may be created, or a socket that systemd passed.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    passed: Option<std::os::unix::net::UnixListener>,
}

impl Socket {
    /// Wraps a socket that systemd passed. systemd chose its owner and mode and removes its file. `path`
    /// names a socket that has no path of its own.
    pub fn passed(listener: std::os::unix::net::UnixListener, path: PathBuf) -> Self {
        let address = listener.local_addr().ok();
        let own = address.and_then(|a| a.as_pathname().map(Path::to_owned));
        Self { path: own.unwrap_or(path), passed: Some(listener) }
    }

    /// Checks that a socket can be created at `path`.
    ///
    /// # Errors
    /// If the path is too long, if another process answers there, or if the file there is not a socket.
    pub fn reserve(path: PathBuf) -> Result<Self> {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH_BYTES {
            return Err(Error::InvalidArgument(format!(
                "the socket path {} has {length} bytes, the system allows {MAX_PATH_BYTES}: choose a shorter --state",
                path.display()
            )));
        }
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self { path, passed: None }),
            Err(e) => return Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::FailedPrecondition(format!(
                    "{} exists and is not a socket: move it away",
                    path.display()
                )));
            }
            Ok(_) => {}
        }
        match UnixStream::connect(&path) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(Self { path, passed: None }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self { path, passed: None }),
            Err(e) => Err(Error::FailedPrecondition(format!(
                "cannot tell whether another process answers at {}: {e}",
                path.display()
            ))),
            Ok(_) => Err(Error::FailedPrecondition(format!(
                "another process answers at {}: stop it, or choose another --state",
                path.display()
            ))),
        }
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Listens on the socket, and creates it unless systemd passed it.
    pub fn open(self, access: Access) -> Result<ListeningSocket> {
        if let Some(passed) = self.passed {
            let listener = passed
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(passed))
                .or_internal(format_args!("the socket {}", self.path.display()))?;
            return Ok(ListeningSocket { path: self.path, bound: None, listener });
        }
        // Shorter than the name of any of our sockets, so its path is not too long.
        let temporary = self.path.with_file_name(format!(".{}", std::process::id()));
        let temporary = temporary.as_path();
        let failed = |doing: &'static str| {
            let path = self.path.display().to_string();
            move |e: std::io::Error| Error::Internal(format!("{doing} the socket {path}: {e}"))
        };
        // A process with the same pid may have left the file when it was killed during the steps below.
        let _ = fs::remove_file(temporary);
        let socket = UnixSocket::new_stream().map_err(failed("making"))?;
        // On Linux the file that `bind` makes has the mode of the descriptor, less the umask.
        fchmod(&socket, Mode::empty()).map_err(|e| failed("making")(e.into()))?;
        socket.bind(temporary).map_err(failed("making"))?;
        let finish = || {
            if access.uid.is_some() || access.gid.is_some() {
                std::os::unix::fs::lchown(temporary, access.uid, access.gid)?;
            }
            fs::set_permissions(temporary, fs::Permissions::from_mode(access.mode))?;
            let inode = fs::symlink_metadata(temporary)?.ino();
            let listener = socket.listen(MAX_BACKLOG)?;
            fs::rename(temporary, &self.path)?;
            Ok((inode, listener))
        };
        let (inode, listener) = finish().map_err(|e| {
            let _ = fs::remove_file(temporary);
            failed("setting up")(e)
        })?;
        let bound = Some(UnlinkOnDrop { path: self.path.clone(), inode });
        Ok(ListeningSocket { path: self.path, bound, listener })
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct ListeningSocket {
    path: PathBuf,
    bound: Option<UnlinkOnDrop>,
    listener: UnixListener,
}

impl ListeningSocket {
    /// Returns the path for log lines, the guard that removes the file if we created it, and the
    /// listener.
    pub fn into_parts(self) -> (String, Option<UnlinkOnDrop>, UnixListener) {
        (self.path.display().to_string(), self.bound, self.listener)
    }
}

/// Removes the file of a socket when dropped, unless another process has replaced the file.
#[derive(Debug)]
pub struct UnlinkOnDrop {
    path: PathBuf,
    inode: u64,
}

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // A remaining file does no harm: the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The socket of containerd, and the sockets that stand in for it.
pub(super) struct ProxySockets {
    pub(super) upstream: UpstreamSocket,
    pub(super) grpc: Socket,
    pub(super) ttrpc: Socket,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: Access = Access { mode: 0o660, uid: None, gid: None };

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Socket::reserve(path.clone()).unwrap().open(ACCESS).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = Socket::reserve(path.clone()).unwrap_err();
        assert!(refused.message().contains("another process answers"), "{refused}");
        drop(live);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "mine").unwrap();
        assert!(Socket::reserve(path.clone()).unwrap_err().message().contains("not a socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Socket::reserve(link).unwrap_err().message().contains("not a socket"));
    }

    #[test]
    fn a_folder_that_others_may_write_in_gets_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        StateFolder::acquire(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o711);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
        let refused = StateFolder::acquire(&state).unwrap_err();
        assert!(refused.message().contains("others may write in the folder"), "{refused}");
    }

    #[test]
    fn a_folder_of_sockets_has_one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateFolder::acquire(dir.path()).unwrap();
        let refused = StateFolder::acquire(dir.path()).unwrap_err();
        let (folder, pid) = (dir.path().display(), std::process::id());
        let why = format!("{folder} is in use by another daemon (pid {pid})");
        assert!(refused.message().contains(&why), "{refused}");
        drop(first);
        StateFolder::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_with_its_length() {
        let path_of = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        Socket::reserve(path_of(MAX_PATH_BYTES)).unwrap();
        let refused = Socket::reserve(path_of(MAX_PATH_BYTES + 1)).unwrap_err();
        assert!(refused.message().contains("has 108 bytes"), "{refused}");
    }
}

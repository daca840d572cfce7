//! Making a socket with its owner and mode, or refusing to, with a sentence.
//!
//! A socket is made under another name, listens when its owner and mode are set, and is moved into
//! its place. The kernel refuses every connection to a socket that does not listen yet: the umask
//! decides nothing. What is moved over is a socket that no process answers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket};

use crate::model::{Error, Result};
use crate::store::dir::lock_file;
use crate::store::dir::lock_file::{LockError, LockFile};
use crate::store::dir::permissions;

/// The sockets' names, in their folder and for systemd.
pub(crate) const IMAGES_SOCK: &str = "images.sock";
pub(crate) const TTRPC_SOCK: &str = "images.sock.ttrpc";
pub(crate) const CONTAINERD_SOCK: &str = "containerd.sock";
pub(crate) const CONTAINERD_TTRPC: &str = "containerd.sock.ttrpc";
pub(crate) const READONLY_SOCK: &str = "readonly.sock";
pub(crate) const SOCKETS: [&str; 5] =
    [IMAGES_SOCK, TTRPC_SOCK, CONTAINERD_SOCK, CONTAINERD_TTRPC, READONLY_SOCK];

/// The longest path of a socket, in bytes: what `sockaddr_un` holds beside its closing zero.
pub const MAX_PATH: usize = 107;

/// Connections that may wait to be accepted.
const MAX_BACKLOG: u32 = 1024;

/// Who may connect.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// The permission bits.
    pub mode: u32,
    /// The owner, when it is not that of the process.
    pub uid: Option<u32>,
    /// The group, when it is not that of the process.
    pub gid: Option<u32>,
}

/// The socket of a containerd to stand in front of, and who may connect to it: nobody else may to
/// ours.
#[derive(Debug, Clone)]
pub struct UpstreamSocket {
    /// Its path.
    pub socket: PathBuf,
    /// Its mode, owner and group; while it is not there, root's alone.
    pub access: Access,
}

impl UpstreamSocket {
    /// Looks at the socket; one of ours, in the folder `state`, is refused.
    pub fn look(socket: &Path, state: &Path) -> Result<Self> {
        let absolute = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute(socket).parent().map(absolute);
        if folder.is_some_and(|folder| folder == absolute(state)) {
            return Err(Error::InvalidArgument(format!(
                "--containerd {} lies in the folder of our own sockets: name containerd's socket",
                socket.display()
            )));
        }
        let access = match fs::metadata(socket) {
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

    /// The socket where the same containerd serves ttrpc: its address with `.ttrpc` behind it.
    pub fn ttrpc(&self, state: &Path) -> Result<Self> {
        let mut socket = self.socket.clone().into_os_string();
        socket.push(".ttrpc");
        Self::look(Path::new(&socket), state)
    }
}

/// The file in the folder for sockets that its daemon has locked.
const LOCK_FILE: &str = "daemon.lock";

/// The folder for sockets, which one daemon at a time has.
#[derive(Debug)]
pub struct StateFolder {
    _lock: LockFile,
}

impl StateFolder {
    /// Creates the folder if need be and locks it. Others may pass through it: the sockets have modes.
    pub fn acquire(path: &Path) -> Result<Self> {
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

/// Creates the folder in which a socket is to be made, if need be, and refuses one that others may
/// write in.
pub fn check_folder_of(socket: &Path) -> Result<()> {
    let parent = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
    permissions::create_private(parent.unwrap_or(Path::new(".")), 0o711).map(drop)
}

/// A path that a socket may be made at, or a socket that somebody made for us.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    passed: Option<std::os::unix::net::UnixListener>,
}

impl Socket {
    /// A socket that was passed to this process. Owner and mode are as whoever made it wanted, and
    /// its file is not ours to remove. `path` names it when it does not itself.
    pub fn passed(listener: std::os::unix::net::UnixListener, path: PathBuf) -> Self {
        let address = listener.local_addr().ok();
        let own = address.and_then(|a| a.as_pathname().map(Path::to_owned));
        Self { path: own.unwrap_or(path), passed: Some(listener) }
    }

    /// Refuses a path that is too long, that somebody answers, or where there is something else
    /// than a socket.
    pub fn reserve(path: PathBuf) -> Result<Self> {
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_PATH {
            return Err(Error::InvalidArgument(format!(
                "the socket path {} has {length} bytes, the system allows {MAX_PATH}: choose a shorter --state",
                path.display()
            )));
        }
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self { path, passed: None }),
            Err(e) => return Err(Error::Internal(format!("looking at {}: {e}", path.display()))),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Error::FailedPrecondition(format!(
                    "{} is there and is no socket: move it away",
                    path.display()
                )));
            }
            Ok(_) => {}
        }
        match UnixStream::connect(&path) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(Self { path, passed: None }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self { path, passed: None }),
            Err(e) => Err(Error::FailedPrecondition(format!(
                "cannot tell whether somebody answers at {}: {e}",
                path.display()
            ))),
            Ok(_) => Err(Error::FailedPrecondition(format!(
                "another process answers at {}: stop it, or choose another --state",
                path.display()
            ))),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the socket, unless it was passed, and listens.
    pub fn open(self, access: Access) -> Result<ListeningSocket> {
        if let Some(passed) = self.passed {
            let listener = passed
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(passed))
                .map_err(|e| Error::Internal(format!("the socket {}: {e}", self.path.display())))?;
            return Ok(ListeningSocket { path: self.path, bound: None, listener });
        }
        // Shorter than every name of ours, so never too long.
        let made = self.path.with_file_name(format!(".{}", std::process::id()));
        let made = made.as_path();
        let told = |doing: &'static str| {
            let path = self.path.display().to_string();
            move |e: std::io::Error| Error::Internal(format!("{doing} the socket {path}: {e}"))
        };
        // Left over from a process of the same number that was killed between two lines below.
        let _ = fs::remove_file(made);
        let socket = UnixSocket::new_stream().map_err(told("making"))?;
        socket.bind(made).map_err(told("making"))?;
        let finish = || {
            if access.uid.is_some() || access.gid.is_some() {
                std::os::unix::fs::lchown(made, access.uid, access.gid)?;
            }
            fs::set_permissions(made, fs::Permissions::from_mode(access.mode))?;
            let inode = fs::symlink_metadata(made)?.ino();
            // Only now: with its first mode, which the umask gives, it must not accept a client.
            let listener = socket.listen(MAX_BACKLOG)?;
            fs::rename(made, &self.path)?;
            Ok((inode, listener))
        };
        let (inode, listener) = finish().map_err(|e| {
            let _ = fs::remove_file(made);
            told("setting up")(e)
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
    /// Its name for the log, its place in the folder if that is ours, and the listener.
    pub fn into_parts(self) -> (String, Option<UnlinkOnDrop>, UnixListener) {
        (self.path.display().to_string(), self.bound, self.listener)
    }
}

/// A socket's place in the folder, cleared when dropped; unless somebody else has it by then.
#[derive(Debug)]
pub struct UnlinkOnDrop {
    path: PathBuf,
    inode: u64,
}

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // Nothing is lost when it stays: the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
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
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "mine").unwrap();
        assert!(Socket::reserve(path.clone()).unwrap_err().message().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Socket::reserve(link).unwrap_err().message().contains("no socket"));
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
        let of = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        Socket::reserve(of(MAX_PATH)).unwrap();
        let refused = Socket::reserve(of(MAX_PATH + 1)).unwrap_err();
        assert!(refused.message().contains("has 108 bytes"), "{refused}");
    }
}

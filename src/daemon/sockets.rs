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
use crate::store::folder;

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
pub struct Behind {
    /// Its path.
    pub socket: PathBuf,
    /// Its mode, owner and group; while it is not there, root's alone.
    pub access: Access,
}

impl Behind {
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

/// Creates the folder for sockets if need be. Others may pass through it: the sockets have modes.
pub fn make_folder(path: &Path) -> Result<()> {
    folder::create(path, 0o711).map(drop)
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
    pub fn claim(path: PathBuf) -> Result<Self> {
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
    pub fn open(self, access: Access) -> Result<Open> {
        if let Some(passed) = self.passed {
            let listener = passed
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(passed))
                .map_err(|e| Error::Internal(format!("the socket {}: {e}", self.path.display())))?;
            return Ok(Open { path: self.path, bound: None, listener });
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
        let bound = Some(Bound { path: self.path.clone(), inode });
        Ok(Open { path: self.path, bound, listener })
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Open {
    path: PathBuf,
    bound: Option<Bound>,
    listener: UnixListener,
}

impl Open {
    /// Its name for the log, its place in the folder if that is ours, and the listener.
    pub fn into_parts(self) -> (String, Option<Bound>, UnixListener) {
        (self.path.display().to_string(), self.bound, self.listener)
    }
}

/// A socket's place in the folder, cleared when dropped; unless somebody else has it by then.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    inode: u64,
}

impl Drop for Bound {
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
        let live = Socket::claim(path.clone()).unwrap().open(ACCESS).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = Socket::claim(path.clone()).unwrap_err();
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
        assert!(Socket::claim(path.clone()).unwrap_err().message().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let link = dir.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Socket::claim(link).unwrap_err().message().contains("no socket"));
    }

    #[test]
    fn a_folder_that_others_may_write_in_gets_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        make_folder(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o711);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
        let refused = make_folder(&state).unwrap_err();
        assert!(refused.message().contains("others may write in the folder"), "{refused}");
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_with_its_length() {
        let of = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        Socket::claim(of(MAX_PATH)).unwrap();
        let refused = Socket::claim(of(MAX_PATH + 1)).unwrap_err();
        assert!(refused.message().contains("has 108 bytes"), "{refused}");
    }
}

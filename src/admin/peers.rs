//! The processes that are connected to a Unix socket, by the kernel's list of sockets (`NETLINK_SOCK_DIAG`).
//!
//! The list has the inode of each socket, the inode of the socket at its other end, and the path that
//! the listening end is bound to. `/proc/PID/fd` has the inodes of each process.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::stat::{major, minor};

use crate::admin::file;

/// A connected process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    /// The process id.
    pub(crate) pid: u32,
    /// The name, as `ps` shows it.
    pub(crate) name: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The processes, except this one, that are connected to `socket`.
pub(crate) fn connected(socket: &Path) -> io::Result<Vec<Peer>> {
    let path = socket.canonicalize()?;
    let found = path.metadata()?;
    let is_there = |end: &SocketEnd| {
        end.path.as_ref() == Some(&path) || end.file == Some(SocketFile::new(&found))
    };
    let ends = list()?;
    let others = ends.iter().filter(|end| is_there(end)).filter_map(|end| end.peer);
    holders(&others.collect())
}

/// The file of a socket, as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
struct SocketFile {
    /// The low 32 bits of the inode.
    inode: u32,
    device: u32,
}

impl SocketFile {
    fn new(file: &Metadata) -> Self {
        let device = file.dev();
        Self {
            inode: file.ino() as u32,
            // 12 bits for the major number, 20 for the minor.
            device: ((major(device) << 20) | minor(device)) as u32,
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { inode: u32_at(bytes, 0)?, device: u32_at(bytes, 4)? })
    }
}

/// An end of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct SocketEnd {
    path: Option<PathBuf>,
    file: Option<SocketFile>,
    peer: Option<u32>,
}

/// Asks the kernel for all Unix sockets.
fn list() -> io::Result<Vec<SocketEnd>> {
    let protocol = SockProtocol::NetlinkSockDiag;
    let flags = SockFlag::SOCK_CLOEXEC;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    let kernel = kernel.as_raw_fd();
    sendto(kernel, &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let (mut ends, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = recv(kernel, &mut buffer, MsgFlags::empty())?;
        if read_messages(buffer.get(..count).unwrap_or_default(), &mut ends)? {
            return Ok(ends);
        }
    }
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x301;
/// UDIAG_SHOW_NAME, UDIAG_SHOW_VFS and UDIAG_SHOW_PEER.
const SHOW: u32 = 0x7;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
/// Bytes of `nlmsghdr`, and of `unix_diag_msg`.
const HEADER_BYTES: usize = 16;

/// `nlmsghdr` and `unix_diag_req`.
fn request() -> Vec<u8> {
    let mut message = Vec::with_capacity(40);
    message.extend(40_u32.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    // Family, protocol, padding; then all states, any inode.
    message.extend([AddressFamily::Unix as u8, 0, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(SHOW.to_ne_bytes());
    message.extend([0; 8]);
    message
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// Reads the messages of one answer. Returns whether it was the last.
fn read_messages(mut rest: &[u8], ends: &mut Vec<SocketEnd>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = rest.get(HEADER_BYTES..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).map_or(0, |code| (code as i32).wrapping_neg());
                return Err(io::Error::from_raw_os_error(errno));
            }
            SOCK_DIAG_BY_FAMILY => ends.push(read_end(message)),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn read_end(message: &[u8]) -> SocketEnd {
    let mut end = SocketEnd::default();
    let mut rest = message.get(HEADER_BYTES..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        match kind {
            UNIX_DIAG_NAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                end.path = Some(PathBuf::from(String::from_utf8_lossy(name).into_owned()));
            }
            UNIX_DIAG_VFS => end.file = SocketFile::read(value),
            UNIX_DIAG_PEER => end.peer = u32_at(value, 0),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    end
}

/// Netlink pads to four bytes.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The processes, except this one, that have one of these sockets open.
fn holders(sockets: &BTreeSet<u32>) -> io::Result<Vec<Peer>> {
    let mut found = Vec::new();
    if sockets.is_empty() {
        return Ok(found);
    }
    for process in Path::new("/proc").read_dir()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end meanwhile.
        let Ok(files) = process.path().join("fd").read_dir() else { continue };
        let has = |link: PathBuf| {
            let link = link.to_str().and_then(|link| link.strip_prefix("socket:["));
            let inode = link.and_then(|link| link.strip_suffix(']')?.parse().ok());
            inode.is_some_and(|inode| sockets.contains(&inode))
        };
        let mut links = files.flatten().filter_map(|file| file.path().read_link().ok());
        if pid != std::process::id() && links.any(has) {
            found.push(Peer { pid, name: process_name(pid) });
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a process, as `ps` shows it.
pub(crate) fn process_name(pid: u32) -> String {
    let path = format!("/proc/{pid}/comm");
    let name = file::read_text(Path::new(&path), 4096).ok().flatten();
    name.map_or_else(|| "a process".into(), |(_, name)| name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_other_ends_of_a_socket_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let ours = UnixStream::connect(&path).unwrap();
        let _theirs = listener.accept().unwrap();
        assert_eq!(connected(&path).unwrap(), [], "this process is left out");
        // A child that inherits our end as its standard input is connected too.
        let stdin = std::os::fd::OwnedFd::from(ours);
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(stdin)).spawn().unwrap();
        let found = connected(&path).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.iter().map(|peer| peer.pid).collect::<Vec<_>>(), [child.id()]);
        // By its own name or still by this program's, before it has become "sleep".
        assert!(!found[0].name.is_empty());
    }

    #[test]
    fn a_cut_answer_is_no_panic() {
        let mut whole = Vec::new();
        whole.extend(32_u32.to_ne_bytes());
        whole.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        whole.extend([0; 10]);
        whole.extend([0; HEADER_BYTES]);
        whole.extend(12_u16.to_ne_bytes());
        whole.extend(UNIX_DIAG_PEER.to_ne_bytes());
        whole.extend([7; 8]);
        for length in 0..whole.len() {
            let mut ends = Vec::new();
            assert!(!read_messages(&whole[..length], &mut ends).unwrap());
        }
    }
}

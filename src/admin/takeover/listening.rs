//! Whether a process listens on a Unix socket.

use std::io::Read;
use std::path::Path;

use crate::admin::file;
use crate::model::{Error, Result};

/// Bytes of the kernel's list of Unix sockets that are read.
const MAX_SOCKET_LIST_BYTES: u64 = 64 << 20;

/// Returns whether a process listens on the Unix socket of that path.
pub(crate) fn listens(pid: u32, path: &str) -> Result<bool> {
    let list = file::open_to_read(Path::new("/proc/net/unix"))?;
    let mut bytes = Vec::new();
    list.take(MAX_SOCKET_LIST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::Internal(format!("reading /proc/net/unix: {e}")))?;
    // Names of other processes' sockets need not be UTF-8.
    let listening = listening_inodes(&String::from_utf8_lossy(&bytes), path);
    // The process may have ended, or have ended meanwhile.
    let Ok(files) = Path::new(&format!("/proc/{pid}/fd")).read_dir() else { return Ok(false) };
    let mut links = files.flatten().filter_map(|file| file.path().read_link().ok());
    Ok(links.any(|link| {
        let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| listening.iter().any(|listening| listening == inode))
    }))
}

/// Inodes of the sockets that listen on `path`, by the text of `/proc/net/unix`. A socket whose file was
/// replaced is still in it, with its path.
fn listening_inodes(list: &str, path: &str) -> Vec<String> {
    /// `__SO_ACCEPTCON`: the socket listens.
    const ACCEPTS: &str = "00010000";
    let fields = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inode = |fields: Vec<&str>| match fields[..] {
        [_, _, _, ACCEPTS, _, _, inode, bound] if bound == path => Some(inode.to_owned()),
        _ => None,
    };
    fields.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_by_path_and_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let shown = path.to_str().unwrap();
        assert!(!listens(std::process::id(), shown).unwrap());
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listens(std::process::id(), shown).unwrap());
        // A connection's own end has the path, too, but does not listen.
        assert!(!listens(1, shown).unwrap());
    }

    #[test]
    fn the_list_of_sockets_is_read_exactly() {
        let list = "Num RefCount Protocol Flags Type St Inode Path\n\
                    0: 00000002 00000000 00010000 0001 01 11 /a\n\
                    0: 00000003 00000000 00000000 0001 03 12 /a\n\
                    0: 00000002 00000000 00010000 0001 01 13 /ab\n\
                    0: 00000003 00000000 00000000 0001 03 14\n";
        assert_eq!(listening_inodes(list, "/a"), ["11"]);
    }
}

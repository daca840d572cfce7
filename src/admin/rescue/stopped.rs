//! Whether a containerd is stopped for good: no process has its database open, no shim of its containers
//! runs, and nothing is mounted in its folders.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::admin::file;
use crate::admin::peers::process_name;
use crate::model::{Error, Result};

/// The prefix of the names of the snapshotters' folders.
pub(crate) const SNAPSHOTTER_PREFIX: &str = "io.containerd.snapshotter.v1.";

/// The most bytes of the kernel's list of mounts.
const MAX_MOUNT_LIST_BYTES: u64 = 64 << 20;

/// A lock on containerd's database, if there is one, so that no containerd starts meanwhile.
#[derive(Debug)]
pub(crate) struct DatabaseLock {
    _lock: Option<Flock<File>>,
}

/// Checks that no process of a containerd runs.
///
/// # Errors
/// `FailedPrecondition` with the process or the mount, and what to do.
pub(crate) fn check(root: &Path, state: &Path, database: &Path) -> Result<DatabaseLock> {
    let lock = lock(database)?;
    let bolt = database.parent().unwrap_or(root);
    for process in Path::new("/proc").read_dir().map_err(|e| read_error("/proc", &e))?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // A shim works in the folder of its container.
        if process.path().join("cwd").read_link().is_ok_and(|cwd| cwd.starts_with(state)) {
            return Err(running(
                pid,
                &format!("works in {}: a container runs", state.display()),
                &format!("end it and its container, for example with `kill {pid}`"),
            ));
        }
        // A process may end meanwhile.
        let Ok(files) = process.path().join("fd").read_dir() else { continue };
        let mut links = files.flatten().filter_map(|file| file.path().read_link().ok());
        // The database may have been removed while the process has it open.
        if links.any(|link| link.starts_with(bolt)) {
            let what = format!("has a file open in {}", bolt.display());
            return Err(running(
                pid,
                &what,
                "stop it, for example with `systemctl stop containerd lmdb-images`",
            ));
        }
    }
    check_mounts(root, state)?;
    Ok(lock)
}

fn lock(database: &Path) -> Result<DatabaseLock> {
    let file = match file::open_to_read(database) {
        Err(Error::NotFound(_)) => return Ok(DatabaseLock { _lock: None }),
        opened => opened?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(DatabaseLock { _lock: Some(locked) }),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::FailedPrecondition(format!(
            "{} is in use: stop containerd first, and kubelet and docker before it (`systemctl stop \
             kubelet docker containerd`)",
            database.display()
        ))),
        Err((_, e)) => Err(read_error(&database.display().to_string(), &e.into())),
    }
}

fn running(pid: u32, what: &str, to_do: &str) -> Error {
    Error::FailedPrecondition(format!("{} (pid {pid}) {what}: {to_do}", process_name(pid)))
}

fn read_error(what: &str, e: &std::io::Error) -> Error {
    Error::Unavailable(format!("{what} cannot be read: {e}; run this as root"))
}

/// Refuses mounts in the folders that `rescue prepare` puts aside.
fn check_mounts(root: &Path, state: &Path) -> Result<()> {
    // The state folder may be a mount itself, and the content may lie on one.
    let is_in_the_way = |point: &Path| {
        let plugin = point.strip_prefix(root).ok().and_then(|inner| inner.iter().next()?.to_str());
        let is_put_aside = |name: &str| name.starts_with(SNAPSHOTTER_PREFIX);
        plugin.is_some_and(is_put_aside) || (point.starts_with(state) && point != state)
    };
    let path = Path::new("/proc/self/mountinfo");
    let Some((_, list)) = file::read_text(path, MAX_MOUNT_LIST_BYTES)? else { return Ok(()) };
    for point in list.lines().filter_map(mount_point) {
        if is_in_the_way(&point) {
            return Err(Error::FailedPrecondition(format!(
                "{} is mounted: end what uses it, then `umount {}`",
                point.display(),
                point.display()
            )));
        }
    }
    Ok(())
}

/// The fifth field of a line; the kernel writes blanks and the like as three octal digits.
fn mount_point(line: &str) -> Option<PathBuf> {
    let mut path = String::new();
    let mut rest = line.split(' ').nth(4)?;
    while let Some((before, behind)) = rest.split_once('\\') {
        path.push_str(before);
        let (digits, behind) = behind.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        rest = behind;
    }
    path.push_str(rest);
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = r"36 35 98:0 /a /mnt/two\040words\134x rw,noatime - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/two words\x")));
        assert_eq!(mount_point("1 2 3"), None);
        assert_eq!(mount_point(r"1 2 3 4 /a\04"), None);
    }

    #[test]
    fn a_locked_or_open_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        let database = root.join("bolt/meta.db");
        std::fs::create_dir_all(database.parent().unwrap()).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        check(&root, &state, &database).unwrap();
        std::fs::write(&database, "x").unwrap();
        let other = Flock::lock(File::open(&database).unwrap(), FlockArg::LockShared).unwrap();
        let refused = check(&root, &state, &database).unwrap_err();
        assert!(refused.message().contains("is in use: stop containerd first"), "{refused}");
        drop(other);
        check(&root, &state, &database).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(&state).spawn().unwrap();
        let refused = check(&root, &state, &database).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused.message().contains(&format!("(pid {}) works in", child.id())), "{refused}");
    }
}

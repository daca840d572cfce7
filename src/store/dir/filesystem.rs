//! The file systems that a store may be on.
//!
//! LMDB maps its file and coordinates processes by locks in shared memory. On a network file system neither works
//! between two machines, and a sync may return before the data is on the server's disk. So the store refuses
//! network file systems, by the number that `statfs(2)` returns for them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};
use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::model::{Context, Error, Result};

/// Network file systems, by `f_type`: from the kernel's `include/uapi/linux/magic.h`, and otherwise from GNU
/// coreutils' list of `stat -f`.
const NETWORK: &[(u32, &str)] = &[
    (0x0000_564c, "NCP"),
    (0x0000_517b, "SMB"),
    (0x0000_6969, "NFS"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x0116_1970, "GFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0x4750_4653, "GPFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x7461_636f, "OCFS2"),
    (0xaad7_aaea, "PanFS"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
];

/// A FUSE program, which may keep the files on another machine.
const FUSE: u32 = 0x6573_5546;

#[derive(Debug, PartialEq, Eq)]
enum FsKind {
    Local,
    Network(&'static str),
    Fuse,
}

fn fs_kind(number: u32) -> FsKind {
    match NETWORK.iter().find(|(network, _)| *network == number) {
        Some((_, name)) => FsKind::Network(name),
        None if number == FUSE => FsKind::Fuse,
        None => FsKind::Local,
    }
}

/// The name of a file system on which a process may not see the writes of another process at once, by the
/// `f_type` of `statfs(2)`; `None` for a local one.
pub(crate) fn remote_name(number: u64) -> Option<&'static str> {
    match fs_kind(u32::try_from(number).ok()?) {
        FsKind::Local => None,
        FsKind::Network(name) => Some(name),
        FsKind::Fuse => Some("FUSE"),
    }
}

/// Refuses a folder on a network file system or on a read-only one. Logs a file system of unknown type.
pub(crate) fn check(folder: &Path) -> Result<()> {
    if statvfs(folder).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY)) {
        return Err(Error::failed_precondition(format_args!(
            "{} lies on a read-only file system, and nothing in it can be changed: make that writable, \
             or copy the folder to another one. ls, inspect, stat, check, backup and recover --to only \
             read it",
            folder.display()
        )));
    }
    let found = statfs(folder)
        .or_internal(format_args!("looking at the file system of {}", folder.display()))?;
    // The type of the number differs between architectures; it has 32 bits on all.
    match fs_kind(found.filesystem_type().0 as u32) {
        FsKind::Local => Ok(()),
        FsKind::Network(name) => Err(refused(folder, name)),
        FsKind::Fuse => {
            log::warn!(
                "{} is on {}, a file system in user space: if its files are another machine's, \
                 or it does not sync when it says so, what was answered may be lost",
                folder.display(),
                mount_type(folder).unwrap_or_else(|| "FUSE".into())
            );
            Ok(())
        }
    }
}

fn refused(folder: &Path, name: &str) -> Error {
    Error::failed_precondition(format_args!(
        "{} is on a network file system ({name}), where LMDB's shared memory and locks do not hold: \
         choose a --root on a local disk",
        folder.display()
    ))
}

/// The type that a folder's file system was mounted as, such as `ext4` or `fuse.sshfs`.
pub(crate) fn mount_type(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let device = format!("{}:{}", major(device), minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    let (_, filesystem) = mount.split_once(" - ")?;
    filesystem.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_recognized_by_their_number() {
        use nix::sys::statfs::{
            CODA_SUPER_MAGIC, EXT4_SUPER_MAGIC, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
        };
        for (number, expected) in [
            (NFS_SUPER_MAGIC, FsKind::Network("NFS")),
            (CODA_SUPER_MAGIC, FsKind::Network("Coda")),
            (EXT4_SUPER_MAGIC, FsKind::Local),
            (TMPFS_MAGIC, FsKind::Local),
            (OVERLAYFS_SUPER_MAGIC, FsKind::Local),
        ] {
            assert_eq!(fs_kind(number.0 as u32), expected);
        }
        // As `statfs` gives it where the number is signed and has 32 bits.
        assert_eq!(fs_kind(-11_317_950_i32 as u32), FsKind::Network("CIFS"));
        assert_eq!(fs_kind(FUSE), FsKind::Fuse);
    }

    #[test]
    fn the_sentence_has_folder_and_reason() {
        let refused = refused(Path::new("/srv/x"), "NFS");
        assert!(refused.message().contains("/srv/x is on a network file system (NFS)"));
    }

    #[test]
    fn a_real_folder_is_local_and_its_file_system_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        assert!(mount_type(dir.path()).is_some_and(|name| !name.is_empty()));
        assert!(check(&dir.path().join("missing")).is_err());
    }
}

//! Where a table comes from: the machine, the disk, the day.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use super::Result;

/// A temporary folder on a disk, which is removed at the end.
pub fn folder() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("li.").tempdir()?;
    if statfs(dir.path())?.filesystem_type() == TMPFS_MAGIC {
        return Err(format!(
            "{} is memory, not a disk, and a sync costs nothing there: set TMPDIR to a folder on a disk",
            dir.path().display()
        )
        .into());
    }
    Ok(dir)
}

/// Processors, memory, kernel, file system and load, in one line.
pub fn describe(dir: &Path) -> String {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = first("/proc/meminfo", "MemTotal");
    let kib = memory.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let virtual_machine =
        fs::read_to_string("/proc/cpuinfo").unwrap_or_default().contains("hypervisor");
    format!(
        "{processors} × {}{}, {} GiB, Linux {}, {}, load {} at the start",
        first("/proc/cpuinfo", "model name"),
        if virtual_machine { " (virtual)" } else { "" },
        kib >> 20,
        kernel.trim(),
        file_system(dir).unwrap_or_default(),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// The type of the file system that has `dir`: of the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?.to_owned(), words.next()?.to_owned());
        dir.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(mount).max().map(|(_, kind)| kind)
}

/// The day, in UTC.
pub fn today() -> String {
    jiff::Timestamp::now().to_string().chars().take("2026-01-31".len()).collect()
}

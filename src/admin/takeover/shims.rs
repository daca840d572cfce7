//! Shims that were started while containerd had its other address. Each keeps that address as long as its
//! containers run, in its environment and its command line.

use std::io::Read;
use std::path::Path;

use super::layout::UPSTREAM;
use crate::admin::file;
use crate::model::{Error, Result};

/// Bytes that are read of a process's environment, and of its command line.
const MAX_ENVIRONMENT_BYTES: u64 = 2 << 20;

/// Returns whether a shim runs that was started while containerd had its other address.
pub(crate) fn any_running() -> Result<bool> {
    let processes = Path::new("/proc").read_dir();
    let processes = processes.map_err(|e| Error::Internal(format!("reading /proc: {e}")))?;
    Ok(processes.flatten().any(|process| is_shim_of_takeover(&process.path())))
}

/// Returns whether the process of that folder of `/proc` is such a shim. The process may have ended meanwhile.
fn is_shim_of_takeover(process: &Path) -> bool {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        let file = file::open_to_read(&process.join(name)).ok()?;
        file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let words =
        |bytes: Vec<u8>| bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let command = read("cmdline").map(words).unwrap_or_default();
    let is_shim = command.first().is_some_and(|program| {
        let program = String::from_utf8_lossy(program);
        program.rsplit('/').next().is_some_and(|name| name.starts_with("containerd-shim"))
    });
    let ttrpc = format!("TTRPC_ADDRESS={UPSTREAM}.ttrpc");
    is_shim
        && (command.iter().any(|word| word == UPSTREAM.as_bytes())
            || read("environ").map(words).unwrap_or_default().iter().any(|v| v == ttrpc.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_shim_of_the_meantime_is_known_by_its_address() {
        let process = |command: &[&str], environment: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("cmdline"), command.join("\0") + "\0").unwrap();
            fs::write(dir.path().join("environ"), environment.join("\0") + "\0").unwrap();
            is_shim_of_takeover(dir.path())
        };
        let shim = "/usr/bin/containerd-shim-runc-v2";
        assert!(process(&[shim, "-id", "x", "-address", UPSTREAM], &[]));
        assert!(process(&[shim], &["A=b", &format!("TTRPC_ADDRESS={UPSTREAM}.ttrpc")]));
        assert!(!process(&[shim, "-address", "/run/containerd/containerd.sock"], &["A=b"]));
        // containerd itself, and clients of that socket, are not asked to.
        assert!(!process(&["/usr/bin/containerd", "--address", UPSTREAM], &[]));
        assert!(!is_shim_of_takeover(Path::new("/proc/0")));
    }
}

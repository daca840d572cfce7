//! The addresses, and the files that a takeover makes.

use std::path::{Path, PathBuf};

/// The address of containerd that its clients use.
pub(crate) const ADDRESS: &str = "/run/containerd/containerd.sock";

/// The address of containerd while the daemon listens on [`ADDRESS`].
pub(crate) const UPSTREAM: &str = "/run/containerd/containerd-upstream.sock";

/// The link to the daemon's socket for containerd's clients, which is there with and without a takeover.
pub(crate) const OUR_ADDRESS: &str = "/run/lmdb-images/containerd.sock";

/// The suffix that containerd appends to its address for ttrpc, where shims send their events.
pub(crate) const TTRPC_SUFFIX: &str = ".ttrpc";

pub(crate) const CONTAINERD_UNIT: &str = "containerd.service";
pub(crate) const DOCKER_UNIT: &str = "docker.service";
pub(crate) const KUBELET_UNIT: &str = "kubelet.service";
pub(crate) const OUR_UNIT: &str = "lmdb-images.service";
pub(crate) const SOCKET_UNIT: &str = "lmdb-images-takeover.socket";
pub(crate) const TTRPC_UNIT: &str = "lmdb-images-takeover-ttrpc.socket";

/// Paths of the files, below a folder that is `/` except in tests.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The other files have an effect only while this file exists.
    pub(crate) switch: PathBuf,
    /// The state of a command, see [`super::record`].
    pub(crate) record: PathBuf,
    /// The unit of the socket at [`ADDRESS`].
    pub(crate) socket: PathBuf,
    /// The unit of the socket at the same address for ttrpc.
    pub(crate) ttrpc: PathBuf,
    /// Drop-in that gives containerd another address.
    pub(crate) containerd: PathBuf,
    /// Drop-in that gives the daemon containerd's address.
    pub(crate) daemon: PathBuf,
    /// The folder that stands for `/run/containerd`.
    pub(crate) run: PathBuf,
}

impl Files {
    /// The files of this machine.
    pub(crate) fn of_machine() -> Self {
        Self::below(Path::new("/"))
    }

    /// The files below a folder.
    pub(crate) fn below(root: &Path) -> Self {
        let units = root.join("etc/systemd/system");
        Self {
            switch: root.join("etc/lmdb-images/takeover.env"),
            record: root.join("etc/lmdb-images/takeover.json"),
            socket: units.join(SOCKET_UNIT),
            ttrpc: units.join(TTRPC_UNIT),
            containerd: units.join("containerd.service.d/90-lmdb-images-takeover.conf"),
            daemon: units.join("lmdb-images.service.d/90-takeover.conf"),
            run: root.join("run/containerd"),
        }
    }

    /// All files that a release removes, except the record.
    pub(crate) fn all(&self) -> [&Path; 5] {
        [&self.switch, &self.socket, &self.ttrpc, &self.containerd, &self.daemon]
    }
}

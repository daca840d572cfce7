//! The texts of the files that a takeover makes.

use std::fmt::Write;
use std::path::PathBuf;

use super::layout::{ADDRESS, Files, OUR_UNIT, SOCKET_UNIT, TTRPC_SUFFIX, TTRPC_UNIT, UPSTREAM};
use super::node::{Node, SocketOwner};

/// The first line of each file.
const FILE_HEADER: &str =
    "# `lmdb-images takeover` made this file, and `lmdb-images release` removes it.\n";

/// The switch, for systemd.
const SWITCH: &str = "/etc/lmdb-images/takeover.env";

/// Variable with containerd's additional flags. systemd splits its value, and an unset one gives no word.
const FLAGS_VARIABLE: &str = "LMDB_IMAGES_TAKEOVER_FLAGS";

/// The files of systemd with their texts. They have no effect while there is no switch.
pub(crate) fn units(files: &Files, node: &Node) -> [(PathBuf, String); 4] {
    let ttrpc = format!("{ADDRESS}{TTRPC_SUFFIX}");
    [
        (files.socket.clone(), socket_unit(ADDRESS, &node.owner)),
        (files.ttrpc.clone(), socket_unit(&ttrpc, &node.ttrpc_owner)),
        (files.containerd.clone(), containerd_drop_in(&node.command)),
        (files.daemon.clone(), daemon_drop_in()),
    ]
}

fn socket_unit(path: &str, owner: &SocketOwner) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut unit = format!(
        "{FILE_HEADER}[Unit]\n\
         Description={name} for containerd's clients, held for lmdb-images\n\
         ConditionPathExists={SWITCH}\n\n\
         [Socket]\n\
         ListenStream={path}\n\
         FileDescriptorName={name}\n\
         Service={OUR_UNIT}\n\
         Symlinks=/run/lmdb-images/{name}\n"
    );
    // Those of containerd's own socket. A number is a name to systemd, too.
    for (key, id) in [("SocketUser", owner.uid), ("SocketGroup", owner.gid)] {
        if id != 0 {
            let _ = writeln!(unit, "{key}={id}");
        }
    }
    let _ = writeln!(unit, "SocketMode={:04o}", owner.mode);
    unit.push_str("DirectoryMode=0711\nRemoveOnStop=yes\n\n[Install]\nWantedBy=sockets.target\n");
    unit
}

/// The whole command from containerd's unit: a drop-in cannot append to a command.
fn containerd_drop_in(command: &str) -> String {
    format!(
        "{FILE_HEADER}[Service]\n\
         EnvironmentFile=-{SWITCH}\n\
         ExecStart=\n\
         ExecStart={command} ${FLAGS_VARIABLE}\n"
    )
}

/// The text of the switch.
pub(crate) fn switch() -> String {
    format!(
        "{FILE_HEADER}{FLAGS_VARIABLE}=\"--address {UPSTREAM}\"\nLMDB_IMAGES_CONTAINERD={UPSTREAM}\n"
    )
}

/// `Sockets=` has both sockets start before the service: systemd starts no socket of a service that runs, and a
/// client of the first may come at once.
fn daemon_drop_in() -> String {
    format!(
        "{FILE_HEADER}[Service]\nEnvironmentFile=-{SWITCH}\nSockets={SOCKET_UNIT}\nSockets={TTRPC_UNIT}\n"
    )
}

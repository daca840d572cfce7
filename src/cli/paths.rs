//! Default paths of the settings, the store and the sockets: system folders for root, XDG folders for other
//! users.

use std::path::PathBuf;

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Returns `<$variable>/lmdb-images` if the variable holds an absolute path, as XDG requires.
fn xdg(variable: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(variable)?);
    folder.is_absolute().then(|| folder.join("lmdb-images"))
}

pub(crate) fn default_root() -> PathBuf {
    let system = PathBuf::from("/var/lib/lmdb-images");
    if is_root() {
        return system;
    }
    let home = || std::env::home_dir().map(|home| home.join(".local/share/lmdb-images"));
    xdg("XDG_DATA_HOME").or_else(home).unwrap_or(system)
}

pub(crate) fn default_config() -> PathBuf {
    let system = PathBuf::from("/etc/lmdb-images/config.toml");
    if is_root() {
        return system;
    }
    let home = || std::env::home_dir().map(|home| home.join(".config/lmdb-images"));
    xdg("XDG_CONFIG_HOME").or_else(home).map_or(system, |folder| folder.join("config.toml"))
}

pub(crate) fn default_state() -> PathBuf {
    let system = PathBuf::from("/run/lmdb-images");
    if is_root() { system } else { xdg("XDG_RUNTIME_DIR").unwrap_or(system) }
}

//! A client of containerd, and the address that it uses.

use std::fmt;
use std::path::{Path, PathBuf};

use super::layout::{ADDRESS, OUR_ADDRESS};
use super::settings::{resolved, socket_path};

/// The address that a client uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// The settings do not name one.
    Default,
    /// The setting's place, and its value.
    Named(String, String),
    /// The client is set to use no containerd. The setting's place.
    Off(String),
    /// The settings cannot be read, and why.
    Unknown(String),
}

/// A client of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// "client " and the name of the program.
    pub(crate) subject: &'static str,
    endpoint: Endpoint,
    /// The path of the socket, if the client uses one and it is known.
    path: Option<PathBuf>,
    /// Whether the takeover moves what the path leads to.
    is_moved: bool,
}

impl Client {
    pub(super) fn new(root: &Path, subject: &'static str, endpoint: Endpoint) -> Self {
        let path = match &endpoint {
            Endpoint::Default => Some(PathBuf::from(ADDRESS)),
            Endpoint::Named(_, value) => socket_path(value),
            Endpoint::Off(_) | Endpoint::Unknown(_) => None,
        };
        let address = resolved(root, Path::new(ADDRESS));
        let is_moved = path.as_ref().is_some_and(|path| resolved(root, path) == address);
        Self { subject, endpoint, path, is_moved }
    }

    /// The path of the socket as the client has it, if the takeover moves it.
    pub(crate) fn moved_path(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.is_moved)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Default => write!(f, "uses {ADDRESS}, by default"),
            Endpoint::Named(place, value) if self.is_moved => {
                write!(f, "uses {value}, by {place}")
            }
            Endpoint::Named(place, value) if self.path.as_deref() == Some(OUR_ADDRESS.as_ref()) => {
                write!(f, "{place} names {value}, our own socket: it goes through us already")
            }
            Endpoint::Named(place, value) => write!(
                f,
                "{place} names {value}, which the takeover does not move: it goes on beside us"
            ),
            Endpoint::Off(place) => write!(f, "uses no containerd, by {place}"),
            Endpoint::Unknown(why) => write!(f, "its address is not known: {why}"),
        }
    }
}

/// A client of CRI may have an address of its own for images. Without one it is that of the runtime.
pub(super) fn with_images(runtime: Client, images: Client) -> Vec<Client> {
    let is_same = images.path.is_some() && images.path == runtime.path;
    if is_same || images.endpoint == Endpoint::Default || images.endpoint == runtime.endpoint {
        return vec![runtime];
    }
    vec![runtime, images]
}

/// An empty setting is the default.
pub(super) fn named(place: &str, value: Option<&str>) -> Endpoint {
    match value {
        None | Some("") => Endpoint::Default,
        Some(value) => Endpoint::Named(place.into(), value.into()),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A machine with these files, the address, and `/var/run` that leads to `/run`.
    pub(in super::super) fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at("/run/containerd")).unwrap();
        fs::create_dir_all(at("/var")).unwrap();
        fs::write(at(ADDRESS), "").unwrap();
        symlink("../run", at("/var/run")).unwrap();
        for (path, text) in files {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        }
        dir
    }

    /// The line of a client with another address.
    pub(in super::super) fn beside(name: &str, place: &str, value: &str) -> String {
        format!(
            "client {name}: {place} names {value}, which the takeover does not move: it goes on beside us"
        )
    }
}

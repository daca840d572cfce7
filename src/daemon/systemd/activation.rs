//! Sockets that systemd made and passed on: one is used instead of making it, when its name is that
//! of one of ours.
//!
//! Its name is the `FileDescriptorName=` of its unit; without one, the name of its file.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use crate::model::{Error, Result};

/// What systemd calls a descriptor that nobody named.
const UNNAMED: &str = "unknown";

/// Sockets that were passed, by name.
#[derive(Debug, Default)]
pub struct ActivatedSockets {
    listeners: BTreeMap<String, UnixListener>,
}

impl ActivatedSockets {
    /// Those that were passed to this process. To be called once, and before threads are started:
    /// it takes the environment variables that tell of them away.
    pub fn from_env() -> Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut listeners = BTreeMap::new();
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty() && *name != UNNAMED);
            let told = |e: &dyn std::fmt::Display| {
                let name = name.unwrap_or(UNNAMED);
                Error::InvalidArgument(format!("the socket {name:?} that systemd passed: {e}"))
            };
            let Some(listener) = passed.take_unix_listener(index).map_err(|e| told(&e))? else {
                continue;
            };
            let name = match name {
                Some(name) => name.to_owned(),
                None => file_name(&listener).ok_or_else(|| told(&"it has no name"))?,
            };
            if listeners.insert(name.clone(), listener).is_some() {
                return Err(Error::InvalidArgument(format!("systemd passed two sockets {name:?}")));
            }
        }
        Ok(Self { listeners })
    }

    /// Whether there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// The socket of that name, if it was passed.
    pub fn take(&mut self, name: &str) -> Option<UnixListener> {
        self.listeners.remove(name)
    }

    /// Refuses what is left: clients would connect to it, and nobody would answer.
    pub fn reject_unclaimed(&self) -> Result<()> {
        let Some(name) = self.listeners.keys().next() else { return Ok(()) };
        Err(Error::InvalidArgument(
            if [crate::daemon::sockets::CONTAINERD_SOCK, crate::daemon::sockets::CONTAINERD_TTRPC]
                .contains(&name.as_str())
            {
                format!(
                    "systemd passed the socket {name:?}, but there is no containerd to stand in front \
                 of: set containerd, or disable the socket's unit"
                )
            } else {
                format!(
                    "systemd passed a socket {name:?}, which this program does not have: its unit's \
                 FileDescriptorName= must be the name of one of its sockets"
                )
            },
        ))
    }
}

fn file_name(listener: &UnixListener) -> Option<String> {
    let address = listener.local_addr().ok()?;
    Some(address.as_pathname()?.file_name()?.to_str()?.to_owned())
}

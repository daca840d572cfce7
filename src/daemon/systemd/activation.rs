//! Socket activation: the daemon uses a socket that systemd passed if it has the name of one of the
//! daemon's sockets.
//!
//! The name is the `FileDescriptorName=` of the unit or, without one, the name of the socket's file.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use crate::model::{Error, Result};

/// systemd's name for a descriptor without a name.
const UNNAMED: &str = "unknown";

/// The sockets that systemd passed, by name.
#[derive(Debug, Default)]
pub(crate) struct ActivatedSockets {
    listeners: BTreeMap<String, UnixListener>,
}

impl ActivatedSockets {
    /// Takes the sockets passed to this process. Must be called once and before any thread starts,
    /// because it removes environment variables.
    ///
    /// # Errors
    /// If a socket is not a unix stream listener, has no name, or shares its name with another one.
    pub(crate) fn from_env() -> Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut listeners = BTreeMap::new();
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty() && *name != UNNAMED);
            let failed = |e: &dyn std::fmt::Display| {
                let name = name.unwrap_or(UNNAMED);
                Error::InvalidArgument(format!("the socket {name:?} that systemd passed: {e}"))
            };
            let Some(listener) = passed.take_unix_listener(index).map_err(|e| failed(&e))? else {
                continue;
            };
            let name = match name {
                Some(name) => name.to_owned(),
                None => file_name(&listener).ok_or_else(|| failed(&"it has no name"))?,
            };
            if listeners.insert(name.clone(), listener).is_some() {
                return Err(Error::InvalidArgument(format!("systemd passed two sockets {name:?}")));
            }
        }
        Ok(Self { listeners })
    }

    /// Returns true if a socket of that name was passed.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// Takes the socket of that name, if it was passed.
    pub(crate) fn take(&mut self, name: &str) -> Option<UnixListener> {
        self.listeners.remove(name)
    }

    /// Refuses sockets that the daemon did not take: clients could connect, but no process would answer.
    pub(crate) fn reject_unclaimed(&self) -> Result<()> {
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

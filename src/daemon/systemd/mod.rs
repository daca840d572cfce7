//! systemd: [`activation`] takes the sockets that systemd created, [`notify`] reports the daemon's status
//! to systemd.

pub(crate) mod activation;
pub(crate) mod notify;

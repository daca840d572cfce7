//! systemd: [`activation`] takes the sockets that systemd created, [`notify`] reports the daemon's status
//! to systemd.

pub mod activation;
pub mod notify;

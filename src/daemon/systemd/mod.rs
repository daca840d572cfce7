//! systemd: [`activation`] takes sockets that it made, [`notify`] tells it what the daemon does.

pub mod activation;
pub mod notify;

//! The services of every socket of a daemon.

use std::sync::Arc;

use crate::health::Health;
use crate::service::Images;
use crate::service::catalog::Catalog;

/// The services that the read-only socket shares with the other sockets.
pub(super) struct Services {
    pub(super) images: Arc<dyn Images>,
    pub(super) catalog: Catalog,
    pub(super) health: Health,
}

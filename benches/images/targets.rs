//! The servers that are measured side by side, and the requests that fill them.

use std::path::Path;
use std::sync::Arc;

use protobuf::Message;

use super::burst::{self, Target, Until};
use super::client::{Prepared, Protocol};
use super::server::{Kind, Server};
use super::{Result, store};

/// Clients that work at once, where it is more than one.
pub const MANY: usize = 32;

/// Both servers, filled.
pub struct Both {
    /// containerd, ours by gRPC, ours by ttrpc.
    pub targets: [Target; 3],
    servers: Vec<Arc<Server>>,
}

impl Both {
    /// Starts both with their data in one folder, so on one disk.
    pub async fn start(containerd: &Kind, dir: &Path) -> Result<Self> {
        let theirs = Arc::new(Server::start(containerd, &dir.join("c")).await?.0);
        let ours = Arc::new(Server::start(&Kind::Ours, &dir.join("o")).await?.0);
        let target =
            |server: &Arc<Server>, protocol| Target { server: Arc::clone(server), protocol };
        let targets = [
            target(&theirs, Protocol::Grpc),
            target(&ours, Protocol::Grpc),
            target(&ours, Protocol::Ttrpc),
        ];
        Ok(Self { targets, servers: vec![theirs, ours] })
    }

    /// The targets with their columns; another goes first each turn.
    pub fn turn(&self, turn: u32) -> impl Iterator<Item = (usize, &Target)> {
        let all = self.targets.iter().enumerate();
        all.cycle().skip(turn as usize % self.targets.len()).take(self.targets.len())
    }

    /// Waits until both rest.
    pub async fn settle(&self) -> Result<()> {
        burst::settle(&self.servers).await
    }
}

/// Requests to Images, encoded for a protocol.
pub fn prepare<M: Message>(
    protocol: Protocol,
    method: &str,
    messages: impl IntoIterator<Item = M>,
) -> Result<Arc<[Prepared]>> {
    messages.into_iter().map(|message| protocol.images(method, &message)).collect()
}

/// Puts the images `first..last` into a store.
pub async fn fill(target: &Target, first: u32, last: u32, teams: u32) -> Result<()> {
    let messages = store::mixed(first, last.saturating_sub(first)).map(|n| store::create(n, teams));
    let requests = prepare(target.protocol, "Create", messages)?;
    burst::run(target, MANY * 4, &requests, Until::Once).await?;
    Ok(())
}

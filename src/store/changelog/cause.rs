//! The actor of a change, and its reason.

use std::sync::Arc;

use protobuf::Message;

use crate::api::catalog;

pub use crate::api::catalog::Origin;

/// The process that asked for a change. Clones share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor(Arc<[u8]>);

impl Actor {
    /// A process by its user, its number and the name of its program, as far as the kernel tells.
    pub fn new(uid: Option<u32>, pid: i32, comm: &str) -> Self {
        let actor = catalog::Actor { uid, pid, comm: comm.into(), ..Default::default() };
        // A message of plain fields can always be encoded.
        Self(actor.write_to_bytes().unwrap_or_default().into())
    }

    /// The encoded `Actor`.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The reason of a job's changes of images, and the client that asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// The kind of reason.
    pub origin: Origin,
    /// The actor that asked for the change; none for the daemon itself.
    pub actor: Option<Actor>,
    /// The number of the entry that the change undoes, for [`Origin::ORIGIN_UNDO`].
    pub undoes: u64,
}

impl Cause {
    /// The cause of a change by the daemon itself.
    pub fn own(origin: Origin) -> Self {
        Self { origin, ..Self::default() }
    }

    /// The cause of a change that a client asked for.
    pub fn client(actor: Actor) -> Self {
        let actor = Some(actor).filter(|actor| !actor.bytes().is_empty());
        Self { origin: Origin::ORIGIN_CLIENT, actor, undoes: 0 }
    }
}

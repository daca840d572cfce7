//! The checks before a rescue changes anything. A failed check says what to do.

use std::collections::BTreeMap;
use std::path::Path;

use go_compat::quote::quote;

use super::plan::{Extent, RescuePlan};
use super::snapshots;
use crate::admin::containerd::await_reply;
use crate::admin::peers;
use crate::admin::precondition::Check;
use crate::clock;
use crate::containerd::client::GrpcClient;
use crate::containerd::layout::Layout;
use crate::model::{Namespace, Result};
use crate::store::dir::root;

/// The bytes of containerd's database that one blob with its lease entry may take, and the bytes that the
/// database needs beside the blobs.
const DATABASE_BYTES_PER_BLOB: u64 = 4096;
const DATABASE_SPARE_BYTES: u64 = 32 << 20;

/// The subjects of the checks.
#[derive(Debug)]
pub(crate) struct Preflight<'p> {
    /// The containerd.
    pub(crate) containerd: &'p GrpcClient,
    /// Where it keeps its files.
    pub(crate) layout: &'p Layout,
    /// The folder of its content store.
    pub(crate) content: &'p Path,
    /// The database.
    pub(crate) database: &'p Path,
    /// The folder of the store, if the names come from one.
    pub(crate) store: Option<&'p Path>,
    /// The plan of the rescue.
    pub(crate) plan: &'p RescuePlan,
    /// Whether containerd may have other images.
    pub(crate) merge: bool,
}

impl Preflight<'_> {
    /// Makes all checks, even after a failed one.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub(crate) async fn run(&self) -> Result<Vec<Check>> {
        let extent = self.plan.extent();
        let check = |subject, found| Check { subject, found };
        Ok(vec![
            check("images", self.images().await?),
            check("content", self.content()),
            check("snapshotters", self.snapshotters()),
            check("clients", self.clients()),
            check("store", self.store()),
            check("clock", self.clock()),
            check("room", self.room(extent)),
        ])
    }

    /// The images of containerd that the plan does not have, or has with another target.
    async fn images(&self) -> Result<Result<String, String>> {
        let (mut same, mut others, mut example) = (0_u64, 0_u64, None);
        for record in await_reply(self.containerd, self.containerd.namespaces()).await? {
            let namespace = Namespace::parse(&record.name)?;
            let planned = self.plan.namespaces.get(&namespace);
            let ours: BTreeMap<_, _> = planned
                .iter()
                .flat_map(|planned| &planned.images)
                .map(|image| (&image.wanted.image.name, &image.wanted.image.target.digest))
                .collect();
            let mut listing = self.containerd.images(&namespace);
            while let Some(images) = await_reply(self.containerd, listing.next()).await? {
                for image in images {
                    if ours.get(&image.name) == Some(&&image.target.digest) {
                        same += 1;
                    } else {
                        others += 1;
                        let name = || format!("{} in namespace {namespace}", quote(&image.name));
                        example.get_or_insert_with(name);
                    }
                }
            }
        }
        let Some(example) = example else {
            return Ok(Ok(match same {
                0 => "containerd has none".into(),
                same => format!("containerd has {same} already, as the names to bring back say"),
            }));
        };
        if self.merge {
            return Ok(Ok(format!("containerd has {others} others, which stay as they are")));
        }
        Ok(Err(format!(
            "containerd has {others} images that are not among those to bring back, {example} for \
             example: is it the right containerd? Has a client pulled since it lost its database? Look \
             with `ctr images ls`, then remove them, or keep them with --merge"
        )))
    }

    fn content(&self) -> Result<String, String> {
        let folder = self.content.display();
        if !self.layout.shares_content {
            return Err(
                "containerd's content_sharing_policy is \"isolated\", so it takes up no blob that lies \
                 on its disk: set it to \"shared\" under [plugins.\"io.containerd.metadata.v1.bolt\"] in \
                 its config.toml, restart it, and set it back after the rescue"
                    .into(),
            );
        }
        Ok(format!("in {folder}, shared among namespaces"))
    }

    fn snapshotters(&self) -> Result<String, String> {
        for (name, folder) in &self.layout.snapshotters {
            match snapshots::find_unknown(self.database, name, folder) {
                Ok(None) => {}
                Ok(Some(unknown)) => {
                    return Err(format!(
                        "the folder of snapshotter {name}, {}, has {} snapshots that containerd's database \
                         does not know, {} for example: it is older than the database, and new \
                         snapshots would collide with it; stop containerd and run `lmdb-images rescue \
                         prepare`, which puts it aside",
                        folder.display(),
                        unknown.count,
                        quote(&unknown.example)
                    ));
                }
                Err(why) => {
                    return Err(format!(
                        "whether the folder of snapshotter {name} is older than the database cannot be \
                         known: {why}; stop containerd and run `lmdb-images rescue prepare`"
                    ));
                }
            }
        }
        Ok("none is older than the database".into())
    }

    fn clients(&self) -> Result<String, String> {
        let socket = self.containerd.socket();
        match peers::connected(socket) {
            Ok(peers) if peers.is_empty() => Ok("no other is connected".into()),
            Ok(peers) => {
                let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
                Err(format!(
                    "connected to containerd: {}; stop them until the rescue has ended (for example \
                     `systemctl stop kubelet docker lmdb-images`): what they pull or remove meanwhile can \
                     cost content",
                    peers.join(", ")
                ))
            }
            Err(e) => Err(format!(
                "the processes connected to {} cannot be listed: {e}; run this as root",
                socket.display()
            )),
        }
    }

    fn store(&self) -> Result<String, String> {
        let Some(path) = self.store else { return Ok("none is used".into()) };
        match root::owner(path) {
            Some(pid) => Err(format!(
                "{} (pid {pid}) writes to the store in {}: stop it until the rescue has ended, for \
                 example with `systemctl stop lmdb-images`",
                peers::process_name(pid),
                path.display()
            )),
            None => Ok(format!("no process writes to {}", path.display())),
        }
    }

    /// Checks the clock. If the clock is behind, the lease would expire as soon as the clock is corrected.
    fn clock(&self) -> Result<String, String> {
        let images = self.plan.namespaces.values().flat_map(|namespace| &namespace.images);
        let times = images.map(|image| image.wanted.image.updated_at.seconds);
        let (now, newest) = (clock::now().seconds, times.max().unwrap_or(i64::MIN));
        if now < newest {
            return Err(format!(
                "the machine's clock shows {}, before the newest change of an image: set the clock \
                 first, as the lease that keeps the content ends by it",
                clock::display_time()
            ));
        }
        Ok(format!("shows {}", clock::display_time()))
    }

    fn room(&self, extent: Extent) -> Result<String, String> {
        let folder = self.database.parent().unwrap_or(Path::new("/"));
        let needed = DATABASE_SPARE_BYTES + extent.blobs * DATABASE_BYTES_PER_BLOB;
        let free = nix::sys::statvfs::statvfs(folder)
            .map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()))
            .map_err(|e| format!("the free space of {} is not known: {e}", folder.display()))?;
        if free < needed {
            return Err(format!(
                "{} has {free} bytes free, and containerd's database may need {needed}: make room first",
                folder.display()
            ));
        }
        Ok(format!("{} MiB free for containerd's database", free >> 20))
    }
}

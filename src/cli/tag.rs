//! `lmdb-images tag`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

use super::candidates::images;
use super::daemon_args::DaemonArgs;
use super::output::{Failure, print};
use super::text::visible;
use super::{NamespaceArg, block_on};
use crate::admin::catalog::Daemon;
use crate::api::catalog::precondition::Is;
use crate::api::catalog::{ApplyItem, ApplyRequest, ApplyResponse, Precondition, Put, apply_item};
use crate::api::images::{GetImageRequest, GetImageResponse, Image};
use crate::model::{Namespace, Result};

/// Give an image another name
///
/// Calls the daemon. NAME gets the target and the labels of SOURCE. The command replaces an existing image
/// NAME; with --if-digest, only if that image has this digest now; with --if-absent, never. If several clients
/// try this at the same time, one of them succeeds.
///
/// Example: lmdb-images tag app:1.4 app:latest --if-digest sha256:…
///
/// Exits with 1 if the condition is not met.
#[derive(Args)]
pub(crate) struct Tag {
    /// Name of an image
    #[arg(add = ArgValueCompleter::new(images))]
    source: String,

    /// The other name
    #[arg(add = ArgValueCompleter::new(images))]
    name: String,

    /// Change NAME only if it has this digest now
    #[arg(long, value_name = "DIGEST", conflicts_with = "if_absent")]
    if_digest: Option<String>,

    /// Change NAME only if no image has this name
    #[arg(long)]
    if_absent: bool,

    /// Print one JSON object: name, digest, etag, and seq, the number of the change
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    namespace: NamespaceArg,

    #[command(flatten)]
    daemon: DaemonArgs,
}

impl Tag {
    /// Has the daemon make the name, and prints it.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (daemon, namespace) = (self.daemon.daemon()?, self.namespace.parse()?);
        let condition = match (self.if_digest, self.if_absent) {
            (Some(digest), _) => Some(Is::Digest(digest)),
            (None, true) => Some(Is::Absent(true)),
            (None, false) => None,
        };
        let (digest, done) = block_on(tag(&daemon, &namespace, self.source, &self.name, condition))
            .map_err(|e| e.without("item 1: "))?;
        let result = done.results.into_iter().next().unwrap_or_default();
        print(|out| match self.json {
            true => writeln!(
                out,
                "{}",
                json!({ "name": self.name, "digest": digest, "etag": result.etag, "seq": result.seq })
            ),
            false => writeln!(out, "{} {}", visible(&self.name), visible(&digest)),
        })
        .map_err(|failure| failure.after(format_args!("{} points to {digest} now", self.name)))
    }
}

async fn tag(
    daemon: &Daemon,
    namespace: &Namespace,
    source: String,
    name: &str,
    condition: Option<Is>,
) -> Result<(String, ApplyResponse)> {
    let get = GetImageRequest { name: source, ..GetImageRequest::default() };
    let path = "/containerd.services.images.v1.Images/Get";
    let found: GetImageResponse = daemon.call(path, Some(namespace), get).await?;
    let image = found.image.unwrap_or_default();
    let digest = image.target.digest.clone();
    let image = Image {
        name: name.to_owned(),
        labels: image.labels,
        target: image.target,
        ..Image::default()
    };
    let put = Put { image: Some(image).into(), ..Put::default() };
    let precondition = condition.map(|is| Precondition { is: Some(is), ..Precondition::default() });
    let item = ApplyItem {
        precondition: precondition.into(),
        change: Some(apply_item::Change::Put(put)),
        ..ApplyItem::default()
    };
    let request = ApplyRequest { items: vec![item], ..ApplyRequest::default() };
    let path = "/lmdbimages.v1.Catalog/Apply";
    Ok((digest, daemon.call(path, Some(namespace), request).await?))
}

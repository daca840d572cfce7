//! Import from a running containerd.

use std::path::Path;

use super::{MAX_BATCH_RECORDS, Summary, open, put_images, put_namespace};
use crate::admin::containerd::await_reply;
use crate::admin::progress;
use crate::containerd::client::GrpcClient;
use crate::model::{Namespace, Result, image};

/// Copies the records of the containerd at `socket` into the store in `root`.
pub(crate) async fn run(root: &Path, socket: &Path) -> Result<Summary> {
    // Connect before opening the store, which creates it: a wrong socket must leave nothing behind.
    let containerd = GrpcClient::connect(socket).await?;
    let store = open(root)?;
    let progress = progress::counter("images");
    let mut summary = Summary::default();
    for record in await_reply(&containerd, containerd.namespaces()).await? {
        let namespace = Namespace::parse(&record.name)?;
        progress.set_message(format!("namespace {namespace}"));
        store.writer().write(put_namespace(&namespace, record)?).await?;
        summary.namespaces += 1;
        let mut listing = containerd.images(&namespace);
        while let Some(images) = await_reply(&containerd, listing.next()).await? {
            for batch in images.chunks(MAX_BATCH_RECORDS) {
                let batch = batch.iter().cloned().map(image::normalize_record).collect();
                let counts = store.writer().write(put_images(&namespace, batch)?).await?;
                summary.add(counts);
                progress.inc(counts.total());
            }
        }
    }
    progress.finish_and_clear();
    Ok(summary)
}

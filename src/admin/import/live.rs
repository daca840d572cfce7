//! Importing from a running containerd.

use std::path::Path;

use super::{BATCH, Summary, open, progress, put_images, put_namespace};
use crate::admin::containerd::answer;
use crate::containerd::client::GrpcClient;
use crate::model::{Namespace, Result, image};

/// Copies what the containerd behind `socket` has into the store in `root`.
pub async fn run(root: &Path, socket: &Path) -> Result<Summary> {
    // First, so that nothing is created for a containerd that is not there.
    let containerd = GrpcClient::connect(socket).await?;
    let store = open(root)?;
    let progress = progress();
    let mut summary = Summary::default();
    for record in answer(&containerd, containerd.namespaces()).await? {
        let namespace = Namespace::parse(&record.name)?;
        progress.set_message(format!("namespace {namespace}"));
        store.writer().write(put_namespace(&namespace, record)?).await?;
        summary.namespaces += 1;
        let mut listing = containerd.images(&namespace);
        while let Some(images) = answer(&containerd, listing.next()).await? {
            for batch in images.chunks(BATCH) {
                let batch = batch.iter().cloned().map(image::normalize_record).collect();
                let counts = store.writer().write(put_images(&namespace, batch)?).await?;
                summary.add(counts);
                progress.inc(counts.all());
            }
        }
    }
    progress.finish_and_clear();
    Ok(summary)
}

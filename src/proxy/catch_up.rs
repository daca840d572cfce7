//! Brings the copy of a namespace up to date before pages of it are read.
//!
//! A page and the log must describe the same state, so pages and counts come from the copy. The daemon first
//! reads each record again that differs from containerd's. One such pass is enough, because a page need not have
//! the changes that containerd makes meanwhile.

use std::sync::Arc;

use tokio::time::timeout;

use crate::limits::client::Client;
use crate::model::{Error, Namespace, Result};
use crate::proxy::compare::{MAX_NAMES, compare};
use crate::proxy::images::ProxyImages;
use crate::proxy::live::{Fallback, LiveFiles};
use crate::proxy::outcome::WRITE_TIMEOUT;
use crate::proxy::reconcile::read_list;
use crate::service::cancel::Cancel;
use crate::store::Origin;

/// The most comparisons. A further comparison follows if the one before found [`MAX_NAMES`] names.
const MAX_ROUNDS: usize = 1000;

impl ProxyImages {
    /// Brings the copy of a namespace to a state that is at least as new as each answer of containerd before
    /// this call.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if containerd listens and does not answer, and its files cannot be read.
    pub(super) async fn catch_up(&self, client: Client, namespace: &Namespace) -> Result<()> {
        if self.catch_up_with(self.live(), client, namespace).await? {
            return Ok(());
        }
        let read = async {
            let _permit = self.reconcile_permit().await;
            read_list(self, namespace).await
        };
        let why = match timeout(WRITE_TIMEOUT, read).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why @ Error::Unavailable(_))) => why,
            Ok(Err(e)) => return Err(e),
            Err(_) => Error::Unavailable(format!(
                "containerd did not list namespace {namespace} within {WRITE_TIMEOUT:?}"
            )),
        };
        let Fallback { files, is_down } = self.fallback();
        if self.catch_up_with(files, client, namespace).await? || is_down {
            Ok(())
        } else {
            Err(why)
        }
    }

    /// Catches up with containerd's files. Returns false if they cannot be read.
    async fn catch_up_with(
        &self,
        files: Option<Arc<LiveFiles>>,
        client: Client,
        namespace: &Namespace,
    ) -> Result<bool> {
        let Some(files) = files else { return Ok(false) };
        for _ in 0..MAX_ROUNDS {
            let (store, ns) = (self.local().store().clone(), namespace.clone());
            let is_equal = store.read(|s| files.comparisons.holds(&files.database, &ns, s));
            if matches!(is_equal, Ok(true)) {
                return Ok(true);
            }
            let files = Arc::clone(&files);
            let work = move |mut cancel: Cancel| {
                store.read(|snapshot| {
                    let found = compare(&files.database, &ns, snapshot, &mut cancel)?;
                    files.comparisons.remember(&ns, snapshot, &found);
                    Ok(found.differing)
                })
            };
            let differing = match self.local().pool().run(client, work).await {
                Err(Error::Unavailable(_)) => return Ok(false),
                found => found?,
            };
            let is_last = differing.len() < MAX_NAMES;
            self.refresh_all(Origin::ORIGIN_BEHIND, namespace, differing).await?;
            if is_last {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

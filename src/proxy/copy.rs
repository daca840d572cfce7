//! Writes to the copy in LMDB: records that a write or a refresh got of containerd. Nothing else in proxy
//! mode writes images. Each write happens under the lock of its record, so the copy of a record is
//! what containerd had at some moment while the lock was held.

use http::HeaderMap;

use crate::api::images::{GetImageRequest, GetImageResponse, Image};
use crate::containerd::client::MAX_NAME;
use crate::log_throttle::throttled_log;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::images::ProxyImages;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome};
use crate::service::codec::encode;
use crate::service::{gc, namespaces};
use crate::store::{Cause, Kind, Origin, Records, Transaction};

/// The result of a refresh: the record in containerd, and the effect in LMDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// containerd has the record, and LMDB has stored it.
    Kept,
    /// containerd does not have the record, and LMDB has removed it.
    Removed,
    /// Neither has the record.
    Absent,
}

impl ProxyImages {
    /// Reads one record from containerd and stores it. If containerd does not have the record, LMDB
    /// deletes its copy, or sets it aside when `aside` is true.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when containerd does not answer; [`Error::Upstream`] when it refuses.
    pub async fn refresh(&self, namespace: &Namespace, name: &str, aside: bool) -> Result<Found> {
        self.refresh_as(Origin::ORIGIN_BEHIND, namespace, name, aside).await
    }

    /// The same. The log of changes says what led to it.
    pub(crate) async fn refresh_as(
        &self,
        origin: Origin,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<Found> {
        let cause = Cause::own(origin);
        let _lock = self.shared.locks.lock(namespace, name).await;
        match self.live().map(|files| files.database.image(namespace, name)) {
            Some(Ok(Some(found))) => {
                return self
                    .store_record(cause, namespace, Some(found))
                    .await
                    .map(|()| Found::Kept);
            }
            Some(Ok(None)) => return self.remove(cause, namespace, name, aside).await,
            // containerd must say what it has.
            Some(Err(_)) | None => {}
        }
        if name.len() > MAX_NAME {
            return match self.shared.containerd.find_image(namespace, name).await? {
                Some(found) => {
                    self.store_record(cause, namespace, Some(found)).await.map(|()| Found::Kept)
                }
                None => self.remove(cause, namespace, name, aside).await,
            };
        }
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        let headers = HeaderMap::new();
        match self
            .ask::<_, GetImageResponse>(path, namespace, &headers, request, READ_TIMEOUT)
            .await
        {
            UpstreamOutcome::Answer(found) => {
                let found = found.image.into_option();
                self.store_record(cause, namespace, found).await.map(|()| Found::Kept)
            }
            UpstreamOutcome::Refused(Error::Upstream(code, _))
                if code == tonic::Code::NotFound as i32 =>
            {
                self.remove(cause, namespace, name, aside).await
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(why))
            }
        }
    }

    async fn remove(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<Found> {
        let was_there = self.remove_record(cause, namespace, name, aside).await?;
        Ok(if was_there { Found::Removed } else { Found::Absent })
    }

    /// Stores a record of containerd, and its namespace.
    async fn store_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        found: Option<Image>,
    ) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let found = image::normalize_record(found);
        let (record, ns) = (encode(&found)?, namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            if change.record(&ns, Kind::Image, &found.name).is_ok_and(|r| r == Some(&record)) {
                return Ok(());
            }
            namespaces::ensure(change, &ns)?;
            let expires = gc::expires(&found.labels);
            change.put(&ns, Kind::Image, &found.name, &record, expires)
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Deletes a record from LMDB, or sets it aside. Returns whether the record existed.
    pub(crate) async fn remove_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<bool> {
        let (ns, name) = (namespace.clone(), name.to_owned());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            if aside {
                change.set_aside(&ns, Kind::Image, &name)
            } else {
                change.delete(&ns, Kind::Image, &name)
            }
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Stores the result of a write. containerd has made the change already, so the write succeeds
    /// even if LMDB cannot store the result.
    pub(crate) async fn apply_result(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        made: Option<Image>,
    ) {
        let stored = match made {
            Some(image) => {
                self.observe(namespace);
                self.store_record(cause, namespace, Some(image)).await
            }
            None => self.remove_record(cause, namespace, name, false).await.map(drop),
        };
        if let Err(e) = stored {
            throttled_log!(Error, "image {} in namespace {namespace}: {e}", quote(name));
            self.schedule_reconcile(namespace);
        }
    }
}

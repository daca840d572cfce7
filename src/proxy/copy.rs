//! The copy in LMDB: reads a record of containerd again, stores it and removes it.
//!
//! **Invariant.** The copy of a record equalled containerd's record at some moment while the record's
//! lock was held.

use go_compat::quote::quote;
use http::HeaderMap;

use crate::api::images::{GetImageRequest, GetImageResponse, Image};
use crate::containerd::client::MAX_NAME;
use crate::containerd::database::Bounded;
use crate::limits::client::Client;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::images::ProxyImages;
use crate::proxy::live::MAX_INLINE_BYTES;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome};
use crate::service::codec::encode;
use crate::service::pool::{Attempt, Lane};
use crate::service::{gc, namespaces};
use crate::store::engine::transaction::MAX_SET_ASIDE;
use crate::store::{Cause, Kind, Origin, Records, Transaction};

/// The result of a refresh: the record in containerd, and the effect in LMDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// containerd has the record, and LMDB has stored it.
    Stored,
    /// containerd does not have the record, and LMDB has removed it.
    Removed,
    /// Neither has the record.
    Absent,
}

/// The fate of the copy of a record that containerd does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// The copy is deleted: a client has deleted the record.
    Delete,
    /// The copy is set aside: containerd may have lost the record.
    SetAside,
}

impl ProxyImages {
    /// The removal of a copy in `namespace` whose record a reconciliation does not find in containerd. If events
    /// may have been missed since the last one, containerd may have lost the record.
    pub(crate) fn removal_in(&self, namespace: &Namespace) -> Removal {
        match self.sync_state().watched_since_sync(namespace) {
            true => Removal::Delete,
            false => Removal::SetAside,
        }
    }

    /// Reads one record from containerd and stores it. If containerd does not have the record, `removal` says what
    /// becomes of the copy.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when containerd does not answer; [`Error::Upstream`] when it refuses.
    pub(crate) async fn refresh(
        &self,
        namespace: &Namespace,
        name: &str,
        removal: Removal,
    ) -> Result<Refreshed> {
        self.refresh_as(Origin::ORIGIN_BEHIND, namespace, name, removal).await
    }

    /// As [`refresh`](Self::refresh), with the origin that the log of changes records.
    pub(crate) async fn refresh_as(
        &self,
        origin: Origin,
        namespace: &Namespace,
        name: &str,
        removal: Removal,
    ) -> Result<Refreshed> {
        let cause = Cause::own(origin);
        let mut turn = None;
        let _lock = loop {
            let lock = self.shared.locks.lock(namespace, name).await;
            match self.read_image(namespace, name, turn.is_some()).await {
                Some(Ok(Bounded::Read(Some(found)))) => {
                    return self
                        .store_record(cause, namespace, Some(found))
                        .await
                        .map(|_| Refreshed::Stored);
                }
                Some(Ok(Bounded::Read(None))) => {
                    return self.remove(cause, namespace, name, removal).await;
                }
                // A large record has its turn before its lock, as the turn may be long.
                Some(Ok(Bounded::TooLarge)) if turn.is_none() => {
                    drop(lock);
                    turn = self.large_refresh_permit().await;
                }
                // containerd must say what it has.
                Some(Ok(Bounded::TooLarge) | Err(_)) | None => break lock,
            }
        };
        if name.len() > MAX_NAME {
            return match self.shared.containerd.find_image(namespace, name).await? {
                Some(found) => self
                    .store_record(cause, namespace, Some(found))
                    .await
                    .map(|_| Refreshed::Stored),
                None => self.remove(cause, namespace, name, removal).await,
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
                self.store_record(cause, namespace, found).await.map(|_| Refreshed::Stored)
            }
            UpstreamOutcome::Refused(Error::Upstream(code, _))
                if code == tonic::Code::NotFound as i32 =>
            {
                self.remove(cause, namespace, name, removal).await
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(why))
            }
        }
    }

    /// Reads a record from containerd's database, if its files can be read. Only a small one, unless
    /// `is_large`: then in the heavy lane of the pool.
    async fn read_image(
        &self,
        namespace: &Namespace,
        name: &str,
        is_large: bool,
    ) -> Option<Result<Bounded<Option<Image>>>> {
        let files = self.live()?;
        if !is_large {
            return Some(files.database.image_at_most(namespace, name, MAX_INLINE_BYTES));
        }
        let (namespace, name) = (namespace.clone(), name.to_owned());
        let read = move |_| files.database.image(&namespace, &name).map(Bounded::Read);
        match self.local().pool().run_in(Lane::Heavy, Client::Own, read).await {
            Ok(Attempt::Done(found)) => Some(Ok(found)),
            Ok(Attempt::Again(_)) => None,
            Err(e) => Some(Err(e)),
        }
    }

    async fn remove(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        removal: Removal,
    ) -> Result<Refreshed> {
        let was_there = self.remove_record(cause, namespace, name, removal).await?.is_some();
        Ok(if was_there { Refreshed::Removed } else { Refreshed::Absent })
    }

    /// Stores a record of containerd, and its namespace. Returns the number of the change in the log, or 0 if
    /// nothing was changed.
    pub(super) async fn store_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        found: Option<Image>,
    ) -> Result<u64> {
        let Some(found) = found else { return Ok(0) };
        let found = image::normalize_record(found);
        let (record, ns) = (encode(&found)?, namespace.clone());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            if change.record(&ns, Kind::Image, &found.name).is_ok_and(|r| r == Some(&record)) {
                return Ok(0);
            }
            namespaces::ensure(change, &ns)?;
            let expires = gc::expires(&found.labels);
            // containerd has the image again, so the store no longer needs the copy that is set aside.
            change.forget_aside(&ns, Kind::Image, &found.name)?;
            change.put(&ns, Kind::Image, &found.name, &record, expires)?;
            Ok(change.last_seq())
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Removes a record from LMDB. Returns the number of the change in the log, or `None` if
    /// the record did not exist.
    pub(crate) async fn remove_record(
        &self,
        cause: Cause,
        namespace: &Namespace,
        name: &str,
        removal: Removal,
    ) -> Result<Option<u64>> {
        let (ns, name) = (namespace.clone(), name.to_owned());
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            let was_there = if removal == Removal::Delete {
                change.delete(&ns, Kind::Image, &name)?
            } else if change.can_set_aside(&ns, Kind::Image, &name)? {
                change.set_aside(&ns, Kind::Image, &name)?
            } else {
                throttled_log!(
                    Warn,
                    "image {} in namespace {ns}, which containerd no longer has, is removed and not set \
                     aside: {MAX_SET_ASIDE} images are set aside, and no more are kept; to drop those, \
                     start the daemon with a new root folder: it reads all names from containerd",
                    quote(&name)
                );
                change.delete(&ns, Kind::Image, &name)?
            };
            Ok(was_there.then(|| change.last_seq()))
        };
        self.shared.local.store().writer().write(work).await
    }
}

//! The catalogue's changes in proxy mode. Each item of a batch, and each undo, is one call to containerd, under
//! the lock of the record.
//!
//! The daemon reads containerd's record, and checks the precondition against it. Until the change is made, the
//! lock excludes all other clients of this daemon. It does not exclude CRI and Transfer, which run inside
//! containerd.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use go_compat::quote::quote;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::field_mask::FieldMask;

use crate::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, UpdateImageRequest, UpdateImageResponse,
};
use crate::clock;
use crate::containerd::client::MAX_NAME;
use crate::limits::client::Client;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result, UnixTime, image};
use crate::proxy::images::ProxyImages;
use crate::proxy::outcome::{READ_TIMEOUT, UpstreamOutcome, WRITE_TIMEOUT};
use crate::proxy::undo_keep::TargetChange;
use crate::service::CallContext;
use crate::service::catalog::apply::CatalogWriter;
use crate::service::catalog::batch::{Applied, Batch, BatchItem, ItemChange, etag_of, in_item};
use crate::service::catalog::undo::{Restore, Restored, check_unchanged};
use crate::service::codec::encode;
use crate::store::{Cause, Origin};

/// The lifetime of the lease that keeps content while an undo makes its image. The undo removes the lease. If
/// the daemon is killed before that, the lease expires.
const UNDO_LEASE_SECONDS: i64 = 300;

/// A change in containerd.
enum Step {
    Create(Image),
    Update(Image, Vec<String>),
    Delete,
}

/// A change of one record. It goes on although its client disconnects.
struct ChangeTask {
    proxy: ProxyImages,
    call: CallContext,
    cause: Cause,
    namespace: Namespace,
    name: String,
    started: tokio::time::Instant,
}

#[async_trait]
impl CatalogWriter for ProxyImages {
    async fn catch_up(&self, client: Client, namespace: &Namespace) -> Result<()> {
        ProxyImages::catch_up(self, client, namespace).await
    }

    async fn apply(
        &self,
        call: &CallContext,
        namespace: Namespace,
        batch: Batch,
    ) -> Result<Vec<Result<Applied>>> {
        if batch.items.len() > 1 && !batch.allow_partial {
            return Err(Error::failed_precondition(format_args!(
                "in front of a containerd {} items cannot be one commit: set allow_partial to apply them \
                 one by one, each with its own result, or send one item",
                batch.items.len()
            ))
            .with_reason("PARTIAL_ONLY", Vec::new()));
        }
        let _reservation = self.shared.local.reserve(call.client, batch.memory()).await;
        let mut results = Vec::with_capacity(batch.items.len());
        for (number, item) in (1..).zip(batch.items) {
            let name = item.name.clone();
            let cause = Cause { origin: Origin::ORIGIN_BATCH, ..call.cause() };
            let task = self.change_task(call, cause, namespace.clone(), name.clone())?;
            let result = task.detach(async move |task| task.apply(item).await).await;
            match result {
                Err(e) if !batch.allow_partial => return Err(in_item(e, number, &name)),
                result => results.push(result),
            }
        }
        Ok(results)
    }

    async fn restore(&self, call: &CallContext, restore: Restore) -> Result<Restored> {
        let cause = Cause { origin: Origin::ORIGIN_UNDO, undoes: restore.undoes, ..call.cause() };
        let (namespace, name) = (restore.namespace.clone(), restore.name.clone());
        let _reservation = self.shared.local.reserve(call.client, restore.memory()).await;
        let task = self.change_task(call, cause, namespace, name)?;
        task.detach(async move |task| task.restore(restore).await).await
    }
}

impl ProxyImages {
    fn change_task(
        &self,
        call: &CallContext,
        cause: Cause,
        namespace: Namespace,
        name: String,
    ) -> Result<ChangeTask> {
        if name.len() > MAX_NAME {
            return Err(Error::InvalidArgument(format!(
                "the image name has {} bytes; in front of a containerd at most {MAX_NAME} are accepted: \
                 choose a shorter name",
                name.len()
            )));
        }
        let (proxy, call, started) = (self.clone(), call.clone(), tokio::time::Instant::now());
        Ok(ChangeTask { proxy, call, cause, namespace, name, started })
    }
}

impl ChangeTask {
    /// Runs `work` under the record's lock, to its end.
    async fn detach<T, F>(self, work: impl FnOnce(Self) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let change = async move {
            let (proxy, namespace) = (self.proxy.clone(), self.namespace.clone());
            let name = self.name.clone();
            let lock = proxy.shared.locks.lock(&namespace, &name);
            let Ok(_lock) = tokio::time::timeout(WRITE_TIMEOUT, lock).await else {
                return Err(Error::Unavailable(format!(
                    "containerd has not answered an earlier change of image {}; nothing was changed",
                    quote(&name)
                )));
            };
            work(self).await
        };
        let detached = tokio::spawn(change.boxed());
        detached.await.map_err(|e| Error::Internal(format!("writing an image: {e}")))?
    }

    async fn apply(self, item: BatchItem) -> Result<Applied> {
        let found = self.find().await?;
        let record = found.as_ref().map(encode).transpose()?;
        item.check(record.as_deref())?;
        let step = match item.change {
            ItemChange::Remove => Step::Delete,
            ItemChange::Put(image) if found.is_some() => Step::Update(image, Vec::new()),
            ItemChange::Put(image) => Step::Create(image),
            ItemChange::Update(image, mask) => {
                // containerd refuses an Update without a target, even if the mask does not name the target.
                let target =
                    found.map(|found| found.target).filter(|_| image.target.digest.is_empty());
                Step::Update(Image { target: target.unwrap_or(image.target), ..image }, mask)
            }
        };
        self.write(step).await
    }

    async fn restore(self, restore: Restore) -> Result<Restored> {
        let found = self.find().await?;
        let record = found.as_ref().map(encode).transpose()?;
        check_unchanged(&restore, record.as_deref())?;
        if restore.is_done(record.as_deref())? {
            return Ok(Restored::Unchanged);
        }
        let Some(state) = restore.state else {
            return self.write(Step::Delete).await.map(|made| Restored::Changed(made.seq));
        };
        let mut image = state.into_image(&restore.name);
        (image.created_at, image.updated_at) = Default::default();
        let lease = self.keep_content(&image.target.digest).await?;
        let step = match found {
            Some(_) => Step::Update(image, Vec::new()),
            None => Step::Create(image),
        };
        let (proxy, namespace) = (self.proxy.clone(), self.namespace.clone());
        let made = self.write(step).await;
        // If this fails, the lease expires.
        if let Err(e) = proxy.containerd().delete_lease(&namespace, &lease).await {
            throttled_log!(Warn, "removing lease {lease} in namespace {namespace}: {e}");
        }
        made.map(|made| Restored::Changed(made.seq))
    }

    /// Makes a lease that keeps the content of the image that the undo makes. Fails if containerd does not have
    /// the content.
    async fn keep_content(&self, digest: &str) -> Result<String> {
        let containerd = self.proxy.containerd();
        let lease = format!("lmdb-images-undo-{}", uuid::Uuid::new_v4());
        let now = clock::now();
        let expires = UnixTime { seconds: now.seconds.saturating_add(UNDO_LEASE_SECONDS), ..now };
        containerd.create_lease(&self.namespace, &lease, expires).await?;
        let kept = async {
            containerd.lease_content(&self.namespace, &lease, digest).await?;
            containerd.has_content(&self.namespace, digest).await
        };
        match kept.await {
            Ok(true) => Ok(lease),
            other => {
                let _ = containerd.delete_lease(&self.namespace, &lease).await;
                other?;
                Err(Error::FailedPrecondition(format!(
                    "containerd no longer has {digest}; `ctr images pull {}@{digest}` brings it back",
                    self.name
                ))
                .with_reason("CONTENT_GONE", vec![("digest", digest.to_owned())]))
            }
        }
    }

    /// containerd's record as this store would have it.
    async fn find(&self) -> Result<Option<Image>> {
        let get = GetImageRequest { name: self.name.clone(), ..GetImageRequest::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        match self.ask::<_, GetImageResponse>(path, get, READ_TIMEOUT).await {
            UpstreamOutcome::Answer(found) => {
                Ok(found.image.into_option().map(image::normalize_record))
            }
            UpstreamOutcome::Refused(Error::Upstream(code, _))
                if code == tonic::Code::NotFound as i32 =>
            {
                Ok(None)
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => {
                Err(Error::Unavailable(format!("{why}; nothing was changed")))
            }
        }
    }

    async fn ask<Q: Message, R: Message>(
        &self,
        path: &'static str,
        request: Q,
        time: Duration,
    ) -> UpstreamOutcome<R> {
        self.proxy.ask(path, &self.namespace, &self.call.headers, request, time).await
    }

    /// Makes the change in containerd, and stores its answer.
    async fn write(self, step: Step) -> Result<Applied> {
        let time = WRITE_TIMEOUT.saturating_sub(self.started.elapsed()).max(READ_TIMEOUT);
        let name = self.name.clone();
        let loss = match &step {
            Step::Create(_) => None,
            Step::Update(image, mask) => TargetChange::from_update(image, mask),
            Step::Delete => Some(TargetChange::Removed),
        };
        self.proxy.keep_for_undo(&self.namespace, &name, loss).await;
        let outcome = match step {
            Step::Delete => {
                let request = DeleteImageRequest { name, ..DeleteImageRequest::default() };
                let path = "/containerd.services.images.v1.Images/Delete";
                self.ask::<_, Empty>(path, request, time).await.map(|_| None)
            }
            Step::Create(image) => {
                let request = CreateImageRequest {
                    image: Some(image).into(),
                    ..CreateImageRequest::default()
                };
                let path = "/containerd.services.images.v1.Images/Create";
                let made = self.ask::<_, CreateImageResponse>(path, request, time).await;
                made.map(|made| made.image.into_option())
            }
            Step::Update(image, mask) => {
                let mask =
                    (!mask.is_empty()).then_some(FieldMask { paths: mask, ..FieldMask::default() });
                let request = UpdateImageRequest {
                    image: Some(image).into(),
                    update_mask: mask.into(),
                    ..UpdateImageRequest::default()
                };
                let path = "/containerd.services.images.v1.Images/Update";
                let made = self.ask::<_, UpdateImageResponse>(path, request, time).await;
                made.map(|made| made.image.into_option())
            }
        };
        self.store(outcome).await
    }

    async fn store(self, outcome: UpstreamOutcome<Option<Image>>) -> Result<Applied> {
        match outcome {
            UpstreamOutcome::Answer(made) => {
                let made = made.map(image::normalize_record);
                let etag = made.as_ref().map(etag_of).transpose()?.unwrap_or_default();
                let stored = self.proxy.apply_result(self.cause, &self.namespace, &self.name, made);
                Ok(Applied { etag, seq: stored.await })
            }
            UpstreamOutcome::Refused(e) => Err(e),
            UpstreamOutcome::NotSent(why) => Err(Error::Unavailable(format!(
                "{why}; nothing was changed: try again when it is back"
            ))),
            UpstreamOutcome::Indeterminate(why) => {
                self.proxy.schedule_reconcile(&self.namespace);
                Err(Error::Unavailable(format!(
                    "{why}; it is unknown whether the change was made: try again or look"
                )))
            }
        }
    }
}

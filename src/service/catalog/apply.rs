//! Changes on the local store: a batch and an undo, each one job of the writer thread.

use async_trait::async_trait;

use super::batch::{Applied, Batch, BatchItem, ItemChange, check_bytes, in_item, updated};
use super::etag::etag;
use super::undo::{Restore, Restored, check_unchanged};
use crate::limits::client::Client;
use crate::model::image::{self, Image};
use crate::model::{Error, Namespace, Result};
use crate::service::CallContext;
use crate::service::codec::decode;
use crate::service::events::OwnEvent;
use crate::service::local::LocalImages;
use crate::service::{images, leases};
use crate::store::{Cause, Kind, Origin, Records, Transaction};

/// Makes the changes of the catalogue: on the local store, or through a containerd.
#[async_trait]
pub trait CatalogWriter: Send + Sync + 'static {
    /// Brings the local store to a state that is at least as new as each answer before this call. Without a
    /// containerd, the store always has such a state.
    async fn catch_up(&self, _client: Client, _namespace: &Namespace) -> Result<()> {
        Ok(())
    }

    /// Applies a batch. Returns the result of each item, or the reason why the whole batch was refused.
    async fn apply(
        &self,
        call: &CallContext,
        namespace: Namespace,
        batch: Batch,
    ) -> Result<Vec<Result<Applied>>>;

    /// Gives an image an earlier state.
    async fn restore(&self, call: &CallContext, restore: Restore) -> Result<Restored>;
}

/// The result of a change.
struct AppliedChange {
    applied: Applied,
    event: OwnEvent,
    /// The bytes of the record that it replaced.
    replaced: usize,
}

#[async_trait]
impl CatalogWriter for LocalImages {
    async fn apply(
        &self,
        call: &CallContext,
        namespace: Namespace,
        batch: Batch,
    ) -> Result<Vec<Result<Applied>>> {
        let (lease, cause) = (call.lease(), Cause { origin: Origin::ORIGIN_BATCH, ..call.cause() });
        let memory = batch.memory();
        let (ns, collector) = (namespace.clone(), std::sync::Arc::clone(self.collector()));
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            let (mut bytes, mut results) = (batch.bytes, Vec::with_capacity(batch.items.len()));
            for (number, item) in (1..).zip(batch.items) {
                let name = item.name.clone();
                let before = change.savepoint();
                match apply_item(change, &ns, lease.as_deref(), item) {
                    Ok(made) => {
                        bytes += made.replaced;
                        check_bytes(bytes)?;
                        collector.observe(&ns, &made.event);
                        results.push(Ok(made));
                    }
                    Err(error) if batch.allow_partial => {
                        change.rollback_to(before);
                        results.push(Err(error));
                    }
                    Err(error) => return Err(in_item(error, number, &name)),
                }
            }
            Ok(results)
        };
        let events = self.events().clone();
        let emit = move |results: &Vec<Result<AppliedChange>>| {
            for made in results.iter().flatten() {
                events.emit(&namespace, made.event.clone());
            }
        };
        let (results, _) = self.change_then(call.client, memory, work, emit).await?;
        Ok(results.into_iter().map(|made| made.map(|made| made.applied)).collect())
    }

    async fn restore(&self, call: &CallContext, restore: Restore) -> Result<Restored> {
        let cause = Cause { origin: Origin::ORIGIN_UNDO, undoes: restore.undoes, ..call.cause() };
        let (lease, collector) = (call.lease(), std::sync::Arc::clone(self.collector()));
        let namespace = restore.namespace.clone();
        let memory = restore.memory();
        let work = move |change: &mut Transaction<'_>| {
            change.set_cause(cause);
            let stored = change.record(&restore.namespace, Kind::Image, &restore.name)?;
            check_unchanged(&restore, stored)?;
            if restore.is_done(stored)? {
                return Ok(None);
            }
            let Restore { namespace, name, state, .. } = restore;
            let change_of = match state {
                None => ItemChange::Remove,
                Some(state) => ItemChange::Put(state.into_image(&name)),
            };
            let item = BatchItem { name, precondition: None, change: change_of };
            let made = apply_item(change, &namespace, lease.as_deref(), item)?;
            collector.observe(&namespace, &made.event);
            Ok(Some(made))
        };
        let events = self.events().clone();
        let emit = move |made: &Option<AppliedChange>| {
            if let Some(made) = made {
                events.emit(&namespace, made.event.clone());
            }
        };
        let (made, _) = self.change_then(call.client, memory, work, emit).await?;
        Ok(made.map_or(Restored::Unchanged, |made| Restored::Changed(made.applied.seq)))
    }
}

fn apply_item(
    change: &mut Transaction<'_>,
    namespace: &Namespace,
    lease: Option<&str>,
    item: BatchItem,
) -> Result<AppliedChange> {
    let stored = change.record(namespace, Kind::Image, &item.name)?;
    item.check(stored)?;
    let (is_there, replaced) = (stored.is_some(), stored.map_or(0, <[u8]>::len));
    let name = item.name;
    let (image, created) = match (item.change, stored) {
        (ItemChange::Remove, _) => {
            leases::release_image(change, namespace, lease, &name)?;
            change.delete(namespace, Kind::Image, &name)?;
            let applied = Applied { etag: String::new(), seq: change.last_seq() };
            return Ok(AppliedChange { applied, event: OwnEvent::ImageDeleted { name }, replaced });
        }
        (ItemChange::Put(mut image), stored) => {
            image::validate(&image)?;
            let before = stored.map(decode::<Image>).transpose()?;
            let created = before.and_then(|before| before.created_at.into_option());
            // A restored image brings its time.
            let created = created.or(image.created_at.take());
            (image, created)
        }
        (ItemChange::Update(new, mask), Some(stored)) => {
            let mut image = updated(stored, new, &mask)?;
            let created = image.created_at.take();
            (image, created)
        }
        // `check` has refused it.
        (ItemChange::Update(..), None) => return Err(Error::not_found("image")),
    };
    let (record, labels) = images::replace(change, namespace, lease, image, created)?;
    let applied = Applied { etag: etag(&record), seq: change.last_seq() };
    let event = match is_there {
        true => OwnEvent::ImageUpdated { name, labels },
        false => OwnEvent::ImageCreated { name, labels },
    };
    Ok(AppliedChange { applied, event, replaced })
}

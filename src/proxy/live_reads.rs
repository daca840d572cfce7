//! Answers reads from containerd's files, without a call to containerd.
//!
//! The answers equal containerd's byte by byte, except for the order of map entries. Each function returns
//! `None` if containerd must answer: its files cannot be used, a record is damaged or has an unknown format, or
//! containerd refuses such a request.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use crate::api::content::{InfoResponse, ReadContentRequest};
use crate::api::images::{GetImageResponse, Image, ListImagesRequest};
use crate::api::namespace::{GetNamespaceResponse, Namespace as Record};
use crate::containerd::blobs::BlobFile;
use crate::containerd::database::Bounded;
use crate::limits::memory::{Reservation, SMALL};
use crate::log_throttle::throttled_log;
use crate::metrics::ReadSource;
use crate::model::{Error, Namespace, Result, digest};
use crate::proxy::compare::{Comparison, compare};
use crate::proxy::copy::{Refreshed, Removal};
use crate::proxy::images::ProxyImages;
use crate::proxy::live::{LiveFiles, MAX_INLINE_BYTES};
use crate::service::cancel::Cancel;
use crate::service::codec::encode;
use crate::service::pool::{Attempt, Lane};
use crate::service::{CallContext, Reply, images};
use crate::store::{Origin, Snapshot};

/// The most comparisons of one List. A further comparison follows if the one before found differing images.
const MAX_COMPARISONS: usize = 8;

/// The most records that are refreshed at a time.
const MAX_REFRESHES: usize = 32;

/// The longest name that an error may contain, in bytes. A longer one may not fit into the headers of a reply.
const MAX_NAME_IN_ERROR: usize = 4 << 10;

/// The bytes of a blob that a Read asks for.
#[derive(Debug)]
pub(crate) struct BlobRange {
    /// The blob.
    pub(crate) blob: Arc<BlobFile>,
    /// The offset of the first byte.
    pub(crate) offset: u64,
    /// The number of bytes.
    pub(crate) length: u64,
}

impl ProxyImages {
    /// Answers Images/Get.
    pub(super) async fn get_live(
        &self,
        files: &Arc<LiveFiles>,
        call: &CallContext,
        namespace: &Namespace,
        name: &str,
    ) -> Option<Result<Reply>> {
        let read = || match files.database.image_at_most(namespace, name, MAX_INLINE_BYTES)? {
            Bounded::Read(found) => image_reply(name, found).map(Bounded::Read),
            Bounded::TooLarge => Ok(Bounded::TooLarge),
        };
        let small = || match read()? {
            Bounded::Read(reply) => Ok(reply),
            Bounded::TooLarge => Err(Error::Unavailable("the image has grown".into())),
        };
        match read() {
            Ok(Bounded::TooLarge) => self.get_large(files, call, namespace, name).await,
            Ok(Bounded::Read(reply)) => self.live_reply(call, Ok(reply), small).await,
            Err(Error::NotFound(_)) if name.len() > MAX_NAME_IN_ERROR => None,
            Err(e) => self.live_reply(call, Err(e), small).await,
        }
    }

    /// Answers Images/Get for a large record. It reads the record in the heavy lane of the pool, where one read
    /// runs at a time: first to learn the size, and again after the size is reserved.
    async fn get_large(
        &self,
        files: &Arc<LiveFiles>,
        call: &CallContext,
        namespace: &Namespace,
        name: &str,
    ) -> Option<Result<Reply>> {
        let mut reservation: Option<Reservation> = None;
        let is_long_name = name.len() > MAX_NAME_IN_ERROR;
        for _ in 0..2 {
            let reserved = reservation.as_ref().map_or(0, Reservation::bytes);
            let (files, namespace, name) = (Arc::clone(files), namespace.clone(), name.to_owned());
            let read = move |_| {
                let message = image_reply(&name, files.database.image(&namespace, &name)?)?;
                let size = message.len();
                Ok((size, (size <= reserved).then_some(message)))
            };
            match self.local().pool().run_in(Lane::Heavy, call.client, read).await {
                Ok(Attempt::Done((size, _))) if size > call.reply_limit => {
                    return Some(Err(Error::message_too_large(size, call.reply_limit)));
                }
                Ok(Attempt::Done((size, Some(message)))) => {
                    if let Some(reservation) = &mut reservation {
                        reservation.shrink(size);
                    }
                    self.upstream().read(ReadSource::Files);
                    return Some(Ok(Reply { message, reservation }));
                }
                Ok(Attempt::Done((size, None))) => {
                    drop(reservation.take());
                    reservation = self.local().reserve(call.client, size).await;
                }
                Ok(Attempt::Again(_)) => return None,
                Err(Error::NotFound(_)) if is_long_name => return None,
                Err(e @ Error::NotFound(_)) => return Some(Err(self.not_found(e))),
                Err(e) => {
                    throttled_log!(Warn, "a read is passed on to containerd: {e}");
                    return None;
                }
            }
        }
        // The record has grown meanwhile.
        None
    }

    /// Answers Images/List.
    pub(super) async fn list_live(
        &self,
        files: &Arc<LiveFiles>,
        call: &CallContext,
        namespace: &Namespace,
        request: &ListImagesRequest,
    ) -> Option<Result<Reply>> {
        for _ in 0..MAX_COMPARISONS {
            let differing = Arc::new(Mutex::new(Vec::new()));
            let accepts = accepts(Arc::clone(files), namespace.clone(), Arc::clone(&differing));
            match self.local().list_if(call, request.clone(), accepts).await {
                Ok(Some(reply)) => {
                    self.upstream().read(ReadSource::Files);
                    return Some(Ok(reply));
                }
                Ok(None) => {}
                // Perhaps containerd's database could not be read.
                Err(Error::Unavailable(why)) => {
                    throttled_log!(Warn, "a List of namespace {namespace} is passed on: {why}");
                    return None;
                }
                Err(e) => return Some(Err(e)),
            }
            let differing = std::mem::take(&mut *differing.lock());
            self.refresh_all(Origin::ORIGIN_BEHIND, namespace, differing).await.ok()?;
        }
        None
    }

    /// Reads records again, several at a time. The first error ends it.
    pub(crate) async fn refresh_all(
        &self,
        origin: Origin,
        namespace: &Namespace,
        names: Vec<String>,
    ) -> Result<usize> {
        let removal = self.removal_in(namespace);
        let each =
            |name: String| async move { self.refresh_as(origin, namespace, &name, removal).await };
        let mut found = stream::iter(names.into_iter().map(each)).buffer_unordered(MAX_REFRESHES);
        let mut removed = 0;
        while let Some(found) = found.next().await {
            removed += usize::from(found? == Refreshed::Removed && removal == Removal::SetAside);
        }
        Ok(removed)
    }

    /// Answers Content/Info.
    pub(crate) async fn content_info(
        &self,
        call: &CallContext,
        digest: &str,
    ) -> Option<Result<Reply>> {
        let namespace = call.namespace().ok()?;
        digest::validate(digest).ok()?;
        let files = self.live()?;
        let read = || match files.database.content(&namespace, digest) {
            Ok(Some(info)) => {
                encode(&InfoResponse { info: Some(info).into(), ..Default::default() })
            }
            Ok(None) => Err(no_content(digest)),
            Err(e) => Err(e),
        };
        self.live_reply(call, read(), read).await
    }

    /// Finds the bytes that a Content/Read asks for.
    pub(crate) fn content_range(
        &self,
        namespace: Option<&str>,
        request: &ReadContentRequest,
    ) -> Option<Result<BlobRange>> {
        let namespace = Namespace::required(namespace).ok()?;
        digest::validate(&request.digest).ok()?;
        let files = self.live()?;
        let blobs = files.blobs.as_ref()?;
        let size = match files.database.content(&namespace, &request.digest) {
            Ok(Some(info)) => u64::try_from(info.size).ok()?,
            Ok(None) => return Some(Err(self.not_found(no_content(&request.digest)))),
            Err(_) => return None,
        };
        let blob = blobs.open(&request.digest, size)?;
        let offset = u64::try_from(request.offset).unwrap_or(0);
        if offset > size {
            let why = format!("read past object length {size} bytes");
            return Some(Err(Error::Upstream(tonic::Code::OutOfRange as i32, why)));
        }
        let rest = size - offset;
        let length = match u64::try_from(request.size) {
            Ok(wanted) if wanted > 0 => wanted.min(rest),
            _ => rest,
        };
        self.upstream().read(ReadSource::Files);
        Some(Ok(BlobRange { blob: Arc::new(blob), offset, length }))
    }

    /// Answers Namespaces/Get. As in containerd, a namespace that does not exist has no labels, and is no error.
    pub(crate) async fn namespace_labels(
        &self,
        call: &CallContext,
        name: &str,
    ) -> Option<Result<Reply>> {
        let files = self.live()?;
        let read = || {
            let labels = files.database.namespace_labels(name)?;
            let record = Record { name: name.to_owned(), labels, ..Record::default() };
            encode(&GetNamespaceResponse { namespace: Some(record).into(), ..Default::default() })
        };
        self.live_reply(call, read(), read).await
    }

    /// Counts a read that ends with NOT_FOUND.
    fn not_found(&self, error: Error) -> Error {
        self.upstream().read(ReadSource::Files);
        error
    }

    /// The reply of a read: `found`, if that is small. Otherwise this reserves the size, and reads again.
    async fn live_reply(
        &self,
        call: &CallContext,
        found: Result<Vec<u8>>,
        read: impl Fn() -> Result<Vec<u8>>,
    ) -> Option<Result<Reply>> {
        let size = match found {
            Ok(message) if message.len() <= SMALL => {
                self.upstream().read(ReadSource::Files);
                return Some(Ok(Reply { message, reservation: None }));
            }
            // A call that waits for its reservation must not keep an unreserved message.
            Ok(message) => message.len(),
            Err(e @ Error::NotFound(_)) => return Some(Err(self.not_found(e))),
            Err(e) => {
                throttled_log!(Warn, "a read is passed on to containerd: {e}");
                return None;
            }
        };
        if size > call.reply_limit {
            return Some(Err(Error::message_too_large(size, call.reply_limit)));
        }
        let reservation = self.local().reserve(call.client, size).await;
        match read() {
            Ok(message) if message.len() <= size => {
                self.upstream().read(ReadSource::Files);
                Some(Ok(Reply { message, reservation }))
            }
            Err(e @ Error::NotFound(_)) => Some(Err(self.not_found(e))),
            // The record has grown, or can no longer be read.
            _ => None,
        }
    }
}

/// Accepts a snapshot whose namespace equals that in containerd's database. Stores the differing names in
/// `differing`.
fn accepts(
    files: Arc<LiveFiles>,
    namespace: Namespace,
    differing: Arc<Mutex<Vec<String>>>,
) -> impl Fn(&Snapshot<'_>, Option<&mut Cancel>) -> Result<bool> + Send + Sync + 'static {
    move |snapshot, cancel| {
        let (database, compared) = (&files.database, &files.comparisons);
        if compared.holds(database, &namespace, snapshot)? {
            return Ok(true);
        }
        let Some(cancel) = cancel else { return Ok(false) };
        let found: Comparison = compare(database, &namespace, snapshot, cancel)?;
        compared.remember(&namespace, snapshot, &found);
        let is_equal = found.differing.is_empty();
        *differing.lock() = found.differing;
        Ok(is_equal)
    }
}

/// The encoded reply of a Get.
fn image_reply(name: &str, found: Option<Image>) -> Result<Vec<u8>> {
    let image = Some(found.ok_or_else(|| images::not_found(name))?).into();
    encode(&GetImageResponse { image, ..Default::default() })
}

fn no_content(digest: &str) -> Error {
    Error::not_found(format_args!("content digest {digest}"))
}

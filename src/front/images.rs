//! Images in front of a containerd: writes go through it, reads come from LMDB.
//!
//! **Invariant.** What LMDB has of a record was, at some moment while its lock was held, what
//! containerd had; in a current namespace that moment is the last change of the record, but for the
//! time an event needs.
//!
//! A write is sent to containerd as the client sent it, and containerd's answer is stored, under
//! the record's lock. That runs detached: a client that leaves does not leave half of it behind.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::HeaderMap;
use protobuf::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::client::{Containerd, MAX_NAME};
use super::locks::Locks;
use super::spaces::Spaces;
use crate::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use crate::metrics::Upstream;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};
use crate::service::local::Local;
use crate::service::message::encode;
use crate::service::{Call, Images, Reply, collector, namespaces};
use crate::store::{Change, Kind, Records};

/// How long containerd may take to answer, before a read turns to LMDB and a write gives up.
const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Images in front of a containerd. Clones are the same.
#[derive(Debug, Clone)]
pub struct Front {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    containerd: Containerd,
    local: Local,
    spaces: Spaces,
    locks: Locks,
    resyncs: mpsc::UnboundedSender<Namespace>,
    /// When containerd last let a call go unanswered.
    silent: Mutex<Option<Instant>>,
    upstream: Upstream,
}

/// What became of a call to containerd.
enum Asked<R> {
    /// It answered.
    Answer(R),
    /// It answered that it will not.
    Refused(Error),
    /// Nobody was there to be asked: nothing was done.
    Unreached(String),
    /// Nobody answered: whether it was done is not known.
    Unknown(String),
}

impl Front {
    /// Images of the containerd behind `containerd`, with `local` as the copy that is read.
    /// Namespaces that want a resync come out of the receiver.
    pub fn new(containerd: Containerd, local: Local) -> (Self, mpsc::UnboundedReceiver<Namespace>) {
        let (resyncs, due) = mpsc::unbounded_channel();
        let (spaces, locks, silent) = (Spaces::default(), Locks::default(), Mutex::default());
        let upstream = Upstream::default();
        let shared = Shared { containerd, local, spaces, locks, resyncs, silent, upstream };
        (Self { shared: Arc::new(shared) }, due)
    }

    /// Which namespaces are current.
    pub fn spaces(&self) -> &Spaces {
        &self.shared.spaces
    }

    /// What is counted of the containerd.
    pub fn upstream(&self) -> &Upstream {
        &self.shared.upstream
    }

    /// The containerd.
    pub fn containerd(&self) -> &Containerd {
        &self.shared.containerd
    }

    /// The copy.
    pub fn local(&self) -> &Local {
        &self.shared.local
    }

    /// Has a namespace read again, soon.
    pub fn want_resync(&self, namespace: &Namespace) {
        // Without a receiver the daemon is ending.
        let _ = self.shared.resyncs.send(namespace.clone());
    }

    /// Reads one record of containerd and stores it. `aside`: what containerd does not have is kept
    /// aside, not deleted. Says whether a record went.
    pub async fn refresh(&self, namespace: &Namespace, name: &str, aside: bool) -> Result<bool> {
        let _lock = self.shared.locks.lock(namespace, name).await;
        if name.len() > MAX_NAME {
            return match self.shared.containerd.find_image(namespace, name).await? {
                Some(found) => self.keep(namespace, Some(found)).await.map(|()| false),
                None => self.drop_record(namespace, name, aside).await,
            };
        }
        let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        let headers = HeaderMap::new();
        match self.ask::<_, GetImageResponse>(path, namespace, &headers, request, ANSWER.0).await {
            Asked::Answer(found) => {
                self.keep(namespace, found.image.into_option()).await.map(|()| false)
            }
            Asked::Refused(Error::Answered(code, _)) if code == tonic::Code::NotFound as i32 => {
                self.drop_record(namespace, name, aside).await
            }
            Asked::Refused(e) => Err(e),
            Asked::Unreached(why) | Asked::Unknown(why) => Err(Error::Unavailable(why)),
        }
    }

    /// Stores a record of containerd's, with its namespace.
    async fn keep(&self, namespace: &Namespace, found: Option<Image>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let found = image::from_record(found);
        let (record, ns) = (encode(&found)?, namespace.clone());
        let work = move |change: &mut Change<'_>| {
            if change.record(&ns, Kind::Image, &found.name).is_ok_and(|r| r == Some(&record)) {
                return Ok(());
            }
            namespaces::ensure(change, &ns)?;
            let expires = collector::expires(&found.labels);
            change.put(&ns, Kind::Image, &found.name, &record, expires)
        };
        self.shared.local.store().writer().write(work).await
    }

    /// Deletes a record here, or sets it aside; says whether there was one.
    pub(super) async fn drop_record(
        &self,
        namespace: &Namespace,
        name: &str,
        aside: bool,
    ) -> Result<bool> {
        let (ns, name) = (namespace.clone(), name.to_owned());
        let work = move |change: &mut Change<'_>| {
            if aside {
                change.set_aside(&ns, Kind::Image, &name)
            } else {
                change.delete(&ns, Kind::Image, &name)
            }
        };
        self.shared.local.store().writer().write(work).await
    }

    async fn ask<Q: Message, R: Message>(
        &self,
        path: &'static str,
        namespace: &Namespace,
        headers: &HeaderMap,
        request: Q,
        time: Duration,
    ) -> Asked<R> {
        let name = self.shared.containerd.socket().display();
        let call = self.shared.containerd.call(path, Some(namespace), headers, request);
        match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => Asked::Answer(answer),
            Ok(Err(status)) if is_containerds(&status) => {
                Asked::Refused(Error::Answered(status.code() as i32, status.message().to_owned()))
            }
            Ok(Err(status)) => {
                let inner = innermost(&status);
                let why = format!("containerd at {name} cannot be reached: {inner}");
                let nobody = |e: &io::Error| {
                    matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
                };
                if inner.downcast_ref().is_some_and(nobody) {
                    Asked::Unreached(why)
                } else {
                    Asked::Unknown(why)
                }
            }
            Err(_) => {
                *self.silent() = Some(Instant::now());
                Asked::Unknown(format!("containerd at {name} did not answer within {time:?}"))
            }
        }
    }

    /// Whether containerd is worth asking for a read: not while it has just let one wait.
    fn is_answering(&self) -> bool {
        self.silent().is_none_or(|since| since.elapsed() > ANSWER.0)
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a change to containerd and stores what it answers, whether or not the client waits.
    /// With a `target`, only while the image has that digest.
    async fn write<Q, R>(
        &self,
        call: &Call,
        path: &'static str,
        name: String,
        target: String,
        request: Q,
        made: impl FnOnce(&R) -> Option<Image> + Send + 'static,
    ) -> Result<Reply>
    where
        Q: Message,
        R: Message,
    {
        let (front, namespace, headers) = (self.clone(), call.namespace()?, call.headers.clone());
        let limit = call.reply_limit;
        if name.len() > MAX_NAME {
            return Err(Error::InvalidArgument(format!(
                "the image name has {} bytes; in front of a containerd at most {MAX_NAME} are accepted: \
                 choose a shorter name, or change this image on containerd's own socket",
                name.len()
            )));
        }
        let detached = tokio::spawn(async move {
            // The wait for a write before this one, that containerd leaves unanswered, counts.
            let begun = tokio::time::Instant::now();
            let lock = front.shared.locks.lock(&namespace, &name);
            let Ok(_lock) = tokio::time::timeout(ANSWER.1, lock).await else {
                return Err(Error::Unavailable(format!(
                    "containerd has not answered an earlier change of image {}; nothing was changed",
                    quote(&name)
                )));
            };
            front.check_target(&namespace, &name, &target).await?;
            let time = ANSWER.1.saturating_sub(begun.elapsed()).max(ANSWER.0);
            match front.ask::<Q, R>(path, &namespace, &headers, request, time).await {
                Asked::Answer(answer) => {
                    front.book(&namespace, &name, made(&answer)).await;
                    encode(&answer)
                }
                Asked::Refused(e) => Err(e),
                Asked::Unreached(why) => Err(Error::Unavailable(format!(
                    "{why}; nothing was changed: try again when it is back"
                ))),
                Asked::Unknown(why) => {
                    front.shared.spaces.doubt(&namespace);
                    front.want_resync(&namespace);
                    Err(Error::Unavailable(format!(
                        "{why}; it is unknown whether the change was made: try again or look"
                    )))
                }
            }
        });
        let told = |e| Error::Internal(format!("writing an image: {e}"));
        // The lock is given back by now: a reply that waits for room holds up no other write.
        self.reply(detached.await.map_err(told)??, limit).await
    }

    /// Stores what a write made. It is done in containerd: when it cannot be stored here, the
    /// namespace is in doubt, and the write has succeeded all the same.
    async fn book(&self, namespace: &Namespace, name: &str, made: Option<Image>) {
        if self.shared.spaces.meet(namespace) {
            self.want_resync(namespace);
        }
        let stored = match made {
            Some(image) => self.keep(namespace, Some(image)).await,
            None => self.drop_record(namespace, name, false).await.map(drop),
        };
        if let Err(e) = stored {
            log::error!("image {} in namespace {namespace}: {e}", quote(name));
            self.shared.spaces.doubt(namespace);
            self.want_resync(namespace);
        }
    }

    async fn reply(&self, message: Vec<u8>, limit: usize) -> Result<Reply> {
        if message.len() > limit {
            return Err(Error::message_too_large(message.len(), limit));
        }
        self.shared.local.written(message).await
    }

    /// containerd 1.x ignores the target of a Delete and would delete whatever is there.
    async fn check_target(&self, namespace: &Namespace, name: &str, wanted: &str) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let get = GetImageRequest { name: name.to_owned(), ..Default::default() };
        let path = "/containerd.services.images.v1.Images/Get";
        match self
            .ask::<_, GetImageResponse>(path, namespace, &HeaderMap::new(), get, ANSWER.0)
            .await
        {
            Asked::Answer(found) if found.image.target.digest != *wanted => {
                Err(Error::not_found(format_args!(
                    "image {} has target {}, not {wanted}",
                    quote(name),
                    found.image.target.digest
                )))
            }
            Asked::Answer(_) => Ok(()),
            Asked::Refused(e) => Err(e),
            Asked::Unreached(why) | Asked::Unknown(why) => {
                Err(Error::Unavailable(format!("{why}; nothing was changed")))
            }
        }
    }
}

#[async_trait]
impl Images for Front {
    async fn get(&self, call: &Call, request: GetImageRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        let is_current = self.shared.spaces.is_current(&namespace);
        if is_current && let Ok(found) = self.shared.local.get(call, request.clone()).await {
            return Ok(found);
        }
        if !self.is_answering() {
            return self.shared.local.get(call, request).await;
        }
        let path = "/containerd.services.images.v1.Images/Get";
        let name = request.name.clone();
        let asked = self.ask(path, &namespace, &call.headers, request.clone(), ANSWER.0).await;
        match asked {
            Asked::Answer(found) => {
                let found: GetImageResponse = found;
                if is_current {
                    // It came behind our back, and its event is still on its way.
                    let (front, namespace) = (self.clone(), namespace.clone());
                    tokio::spawn(async move { front.refresh(&namespace, &name, false).await });
                } else if self.shared.spaces.meet(&namespace) {
                    self.want_resync(&namespace);
                }
                self.reply(encode(&found)?, call.reply_limit).await
            }
            Asked::Refused(e) => Err(e),
            Asked::Unreached(_) | Asked::Unknown(_) => self.shared.local.get(call, request).await,
        }
    }

    async fn list(&self, call: &Call, request: ListImagesRequest) -> Result<Reply> {
        let namespace = call.namespace()?;
        if self.shared.spaces.is_current(&namespace) || !self.is_answering() {
            return self.shared.local.list(call, request).await;
        }
        let path = "/containerd.services.images.v1.Images/List";
        match self.ask(path, &namespace, &call.headers, request.clone(), ANSWER.0).await {
            Asked::Answer(found) => {
                let found: ListImagesResponse = found;
                if self.shared.spaces.meet(&namespace) && !found.images.is_empty() {
                    self.want_resync(&namespace);
                }
                self.reply(encode(&found)?, call.reply_limit).await
            }
            Asked::Refused(e) => Err(e),
            Asked::Unreached(_) | Asked::Unknown(_) => self.shared.local.list(call, request).await,
        }
    }

    async fn create(&self, call: &Call, request: CreateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "CreateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Create";
        let made = |answer: &CreateImageResponse| answer.image.clone().into_option();
        self.write(call, path, checked.name, String::new(), request, made).await
    }

    async fn update(&self, call: &Call, request: UpdateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "UpdateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Update";
        let made = |answer: &UpdateImageResponse| answer.image.clone().into_option();
        self.write(call, path, checked.name, String::new(), request, made).await
    }

    async fn delete(&self, call: &Call, request: DeleteImageRequest) -> Result<Reply> {
        let path = "/containerd.services.images.v1.Images/Delete";
        let (name, target) = (request.name.clone(), request.target.digest.clone());
        let gone = |_: &protobuf::well_known_types::empty::Empty| None;
        self.write(call, path, name, target, request, gone).await
    }
}

/// Whether a status came from containerd, and not from the way to it.
fn is_containerds(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// What lies at the bottom of an error; the layers above say only "transport error".
fn innermost(error: &Status) -> &(dyn std::error::Error + 'static) {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}

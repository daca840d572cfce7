//! Answers a read in front of containerd. The daemon tries three sources in this order: containerd's
//! files, containerd itself, and as a last resort the copy of the records in LMDB.
//!
//! A read must never be older than an answer that containerd gave to any client, but the copy may be old. So
//! the daemon uses the copy only if no containerd listens on the socket and containerd's files cannot be
//! read. If a containerd listens but does not answer this daemon, it may still have answered a change of
//! another client. Then the daemon reads containerd's files again, and if they cannot be read, the read
//! fails.

use std::sync::Arc;

use crate::api::images::{GetImageRequest, ListImagesRequest};
use crate::limits::memory::SMALL;
use crate::metrics::ReadSource;
use crate::model::{Error, Namespace, Result};
use crate::proxy::images::ProxyImages;
use crate::proxy::live::{Fallback, LiveFiles};
use crate::proxy::outcome::UpstreamOutcome;
use crate::service::{CallContext, Images, Reply};

/// A read of images.
pub(super) enum Read {
    Get(GetImageRequest),
    List(ListImagesRequest),
}

impl ProxyImages {
    /// Answers `read` from the first source that can.
    pub(super) async fn read(&self, call: &CallContext, read: Read) -> Result<Reply> {
        let namespace = call.namespace()?;
        if let Some(answer) = self.read_files(call, &namespace, &read, self.live()).await {
            return answer;
        }
        let why = match self.read_containerd(call, &namespace, &read).await {
            UpstreamOutcome::Answer(reply) => {
                self.upstream().read(ReadSource::Containerd);
                return Ok(reply);
            }
            UpstreamOutcome::Refused(e) => return Err(e),
            UpstreamOutcome::NotSent(why) | UpstreamOutcome::Indeterminate(why) => why,
        };
        let Fallback { files, is_down } = self.fallback();
        if let Some(answer) = self.read_files(call, &namespace, &read, files).await {
            return answer;
        }
        if !is_down {
            return Err(Error::Unavailable(format!(
                "{why}, and its files cannot be read; the copy here may be older: try again"
            )));
        }
        self.upstream().read(ReadSource::Copy);
        match read {
            Read::Get(request) => self.local().get(call, request).await,
            Read::List(request) => self.local().list(call, request).await,
        }
    }

    async fn read_files(
        &self,
        call: &CallContext,
        namespace: &Namespace,
        read: &Read,
        files: Option<Arc<LiveFiles>>,
    ) -> Option<Result<Reply>> {
        let files = files?;
        match read {
            Read::Get(request) => self.get_live(&files, call, namespace, &request.name).await,
            Read::List(request) => self.list_live(&files, call, namespace, request).await,
        }
    }

    async fn read_containerd(
        &self,
        call: &CallContext,
        namespace: &Namespace,
        read: &Read,
    ) -> UpstreamOutcome<Reply> {
        match read {
            Read::Get(request) => {
                let path = "/containerd.services.images.v1.Images/Get";
                self.ask_for_reply(call, path, namespace, request.clone(), SMALL).await
            }
            Read::List(request) => {
                let path = "/containerd.services.images.v1.Images/List";
                self.ask_for_reply(call, path, namespace, request.clone(), 0).await
            }
        }
    }
}

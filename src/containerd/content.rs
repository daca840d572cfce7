//! Content of a containerd: takes up blobs that lie on its disk, and labels blobs.
//!
//! A containerd whose database is new does not know the blobs in its content folder. Its Write call,
//! opened with the digest and the size of such a blob, says that all bytes are there already. A commit
//! then records the blob in the namespace, and no byte is sent or copied.

use std::collections::BTreeMap;

use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::field_mask::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::api::content::{
    AbortRequest, Info, InfoRequest, InfoResponse, UpdateRequest, UpdateResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use crate::containerd::client::{GrpcClient, Replies};
use crate::containerd::codec::encode;
use crate::containerd::write::CALL_TIMEOUT;
use crate::model::{Error, Namespace, Result};

const WRITE_METHOD: &str = "/containerd.services.content.v1.Content/Write";
const ABORT_METHOD: &str = "/containerd.services.content.v1.Content/Abort";
const INFO_METHOD: &str = "/containerd.services.content.v1.Content/Info";
const UPDATE_METHOD: &str = "/containerd.services.content.v1.Content/Update";

/// A blob for containerd to adopt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobToAdopt<'b> {
    /// The digest.
    pub(crate) digest: &'b str,
    /// The size in bytes.
    pub(crate) size: i64,
    /// The labels for the blob.
    pub(crate) labels: &'b BTreeMap<String, String>,
}

/// The outcome for a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// containerd knows the blob now.
    Adopted,
    /// containerd knew the blob in this namespace.
    Known,
    /// containerd does not find the blob in its content folder, and did not take it up.
    NotFound,
    /// The file has another size than the descriptor says. containerd did not take it up.
    Refused(String),
}

impl GrpcClient {
    /// Takes up a blob that lies in containerd's content folder. If the client has a lease, the lease holds
    /// the blob from the first moment on, even if containerd knew the blob.
    ///
    /// # Errors
    /// If containerd cannot be reached or does not answer.
    pub(crate) async fn adopt_blob(
        &self,
        namespace: &Namespace,
        blob: &BlobToAdopt<'_>,
    ) -> Result<Adoption> {
        let reference = format!("lmdb-images-rescue-{}", blob.digest);
        let adopted = tokio::time::timeout(CALL_TIMEOUT, self.adopt(namespace, blob, &reference));
        let adopted = adopted.await.unwrap_or_else(|_| {
            let seconds = CALL_TIMEOUT.as_secs();
            Err(Status::deadline_exceeded(format!("it did not answer within {seconds} s")))
        });
        let adoption = match adopted {
            Ok(adoption) => adoption,
            Err(status) if status.code() == Code::AlreadyExists => return Ok(Adoption::Known),
            Err(status) => match self.call_error(&status) {
                Error::Upstream(_, why) => Adoption::Refused(why),
                error => return Err(error),
            },
        };
        if adoption != Adoption::Adopted {
            self.abort_write(namespace, reference).await?;
        }
        Ok(adoption)
    }

    async fn adopt(
        &self,
        namespace: &Namespace,
        blob: &BlobToAdopt<'_>,
        reference: &str,
    ) -> std::result::Result<Adoption, Status> {
        let ask = |action: WriteAction, offset| WriteContentRequest {
            action: action.into(),
            ref_: reference.to_owned(),
            total: blob.size,
            expected: blob.digest.to_owned(),
            offset,
            ..WriteContentRequest::default()
        };
        let (requests, queue) = mpsc::channel(1);
        let gone = |_| Status::unavailable("the call ended");
        requests.try_send(encode(&ask(WriteAction::STAT, 0))?).map_err(|e| gone(e.to_string()))?;
        let mut replies =
            self.exchange(WRITE_METHOD, namespace, ReceiverStream::new(queue)).await?;
        let found = next(&mut replies).await?;
        // A commit with another offset would make containerd cut the blob and copy it.
        if found.offset != blob.size {
            return Ok(match found.offset {
                0 => Adoption::NotFound,
                offset => Adoption::Refused(format!("it sees {offset} bytes of {}", blob.size)),
            });
        }
        let mut commit = ask(WriteAction::COMMIT, blob.size);
        commit.labels = blob.labels.clone();
        requests.send(encode(&commit)?).await.map_err(|e| gone(e.to_string()))?;
        next(&mut replies).await?;
        Ok(Adoption::Adopted)
    }

    async fn abort_write(&self, namespace: &Namespace, reference: String) -> Result<()> {
        let request = AbortRequest { ref_: reference, ..AbortRequest::default() };
        match self.call_with_timeout::<_, Empty>(ABORT_METHOD, namespace, request).await {
            Ok(_) => Ok(()),
            Err(Error::Upstream(code, _)) if code == Code::NotFound as i32 => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// containerd's record of a blob in the namespace.
    pub(crate) async fn content(
        &self,
        namespace: &Namespace,
        digest: &str,
    ) -> Result<Option<Info>> {
        let request = InfoRequest { digest: digest.to_owned(), ..InfoRequest::default() };
        match self.call_with_timeout::<_, InfoResponse>(INFO_METHOD, namespace, request).await {
            Ok(found) => Ok(Some(found.info.unwrap_or_default())),
            Err(Error::Upstream(code, _)) if code == Code::NotFound as i32 => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets these labels of a blob, which keeps its other labels.
    pub(crate) async fn label_content(
        &self,
        namespace: &Namespace,
        digest: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
        let request = UpdateRequest {
            info: Some(info).into(),
            update_mask: Some(FieldMask { paths, ..FieldMask::default() }).into(),
            ..UpdateRequest::default()
        };
        self.call_with_timeout::<_, UpdateResponse>(UPDATE_METHOD, namespace, request)
            .await
            .map(drop)
    }
}

async fn next(
    replies: &mut Replies<WriteContentResponse>,
) -> std::result::Result<WriteContentResponse, Status> {
    replies.message().await?.ok_or_else(|| Status::internal("the call ended without a reply"))
}

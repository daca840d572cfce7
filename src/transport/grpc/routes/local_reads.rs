//! Calls of other services than Images that the daemon answers from containerd's files. A function returns
//! `None` if the files cannot answer the call; the caller then forwards the call to containerd.

use http::Response;

use crate::api::content::{InfoRequest, ReadContentRequest};
use crate::api::namespace::GetNamespaceRequest;
use crate::model::Result;
use crate::proxy::images::ProxyImages;
use crate::transport::grpc::blob_body::BlobBody;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::server::PeekedCall;

/// Answers Content/Info from the metadata database.
pub(crate) async fn content_info(
    proxy: &ProxyImages,
    call: &PeekedCall,
) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<InfoRequest>()?;
    let answer = proxy.content_info(context, &request.digest).await?;
    Some(answer.map(|reply| call.reply(reply)))
}

/// Answers Content/Read from the file of the blob.
pub(crate) fn content_read(
    proxy: &ProxyImages,
    call: &PeekedCall,
) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<ReadContentRequest>()?;
    let range = proxy.content_range(context.namespace.as_deref(), &request)?;
    Some(range.map(|range| message::response(BlobBody::new(range).boxed())))
}

/// Answers Namespaces/Get from the metadata database.
pub(crate) async fn namespace(
    proxy: &ProxyImages,
    call: &PeekedCall,
) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<GetNamespaceRequest>()?;
    let answer = proxy.namespace_labels(context, &request.name).await?;
    Some(answer.map(|reply| call.reply(reply)))
}

//! Calls beside Images that are answered from containerd's files. Each function gives nothing where the
//! call must be forwarded.

use http::Response;

use crate::api::content::{InfoRequest, ReadContentRequest};
use crate::api::namespace::GetNamespaceRequest;
use crate::model::Result;
use crate::proxy::images::ProxyImages;
use crate::transport::grpc::blob_body::BlobBody;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::server::PeekedCall;

/// Answers Content/Info.
pub async fn content_info(
    proxy: &ProxyImages,
    call: &PeekedCall,
) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<InfoRequest>()?;
    let answer = proxy.content_info(context, &request.digest).await?;
    Some(answer.map(|reply| call.reply(reply)))
}

/// Answers Content/Read.
pub fn content_read(proxy: &ProxyImages, call: &PeekedCall) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<ReadContentRequest>()?;
    let range = proxy.content_range(context.namespace.as_deref(), &request)?;
    Some(range.map(|range| message::response(BlobBody::new(range).boxed())))
}

/// Answers Namespaces/Get.
pub async fn namespace(proxy: &ProxyImages, call: &PeekedCall) -> Option<Result<Response<Body>>> {
    let (context, request) = call.message::<GetNamespaceRequest>()?;
    let answer = proxy.namespace_labels(context, &request.name).await?;
    Some(answer.map(|reply| call.reply(reply)))
}

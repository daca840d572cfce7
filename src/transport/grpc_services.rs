//! The small services beside Images on a gRPC socket: Health, and containerd's Version.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use protobuf::well_known_types::empty::Empty;

use super::grpc_message::{self, Body};
use super::listener::Stop;
use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::api::version::VersionResponse;
use crate::model::{Error, Result};
use crate::service::message::encode;

/// The services whose health can be asked for; the empty name is the whole server.
const KNOWN: [&str; 2] = ["", super::grpc::IMAGES];

/// What Version answers: this program's version, and its name where containerd has its revision.
pub fn version(_: Empty) -> Result<VersionResponse> {
    Ok(VersionResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("CARGO_PKG_NAME").into(),
        ..VersionResponse::default()
    })
}

/// What Health/Check answers.
pub fn check(request: &HealthCheckRequest, stop: &Stop) -> Result<HealthCheckResponse> {
    if !KNOWN.contains(&request.service.as_str()) {
        return Err(Error::NotFound(format!("unknown service {:?}", request.service)));
    }
    Ok(health(serving(*stop.borrow())))
}

/// What Health/Watch answers: how things stand now, and how when the daemon stops.
pub fn watch(request: &HealthCheckRequest, mut stop: Stop) -> Result<Response<Body>> {
    let [now, then] = if KNOWN.contains(&request.service.as_str()) {
        [serving(*stop.borrow()), serving(true)]
    } else {
        [ServingStatus::SERVICE_UNKNOWN; 2]
    };
    let [now, then] = [framed(now)?, framed(then)?];
    let later = async move {
        super::listener::stopped(&mut stop).await;
        Ok(then)
    };
    let trailers = stream::once(async { Ok(Frame::trailers(grpc_message::ok())) });
    let frames = stream::once(async { Ok(now) }).chain(stream::once(later)).chain(trailers);
    Ok(grpc_message::response(grpc_message::own(StreamBody::new(frames))))
}

fn framed(status: ServingStatus) -> Result<Frame<Bytes>> {
    Ok(Frame::data(grpc_message::framed(&encode(&health(status))?)))
}

fn serving(stopping: bool) -> ServingStatus {
    if stopping { ServingStatus::NOT_SERVING } else { ServingStatus::SERVING }
}

fn health(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into(), ..HealthCheckResponse::default() }
}

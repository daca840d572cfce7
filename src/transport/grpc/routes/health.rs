//! The service grpc.health.v1, the same on every gRPC socket.

use std::time::Duration;

use futures_util::stream;
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;

use crate::api::health::health_check_response::ServingStatus;
use crate::api::health::{HealthCheckRequest, HealthCheckResponse};
use crate::health::Health;
use crate::model::{Error, Result};
use crate::service::Reply;
use crate::service::codec::encode;
use crate::transport::grpc::message;
use crate::transport::grpc::message::Body;
use crate::transport::grpc::routes::unimplemented::unimplemented;
use crate::transport::grpc::server::IncomingCall;
use crate::transport::limits::IMAGES;
use crate::transport::status;
use tokio_util::sync::CancellationToken;

/// The full name of the Health service.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";

/// The services whose health clients can ask for. The empty name means the whole server.
const KNOWN: [&str; 2] = ["", IMAGES];

/// How often Watch checks the health.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Answers a call of the Health service.
pub(crate) async fn answer(
    health: &Health,
    call: IncomingCall,
    method: &str,
    stop: CancellationToken,
) -> Result<Response<Body>> {
    match method {
        "Check" => {
            let health = health.clone();
            let check = async move |_, request: HealthCheckRequest| {
                if !is_known(&request) {
                    let unknown = format!("unknown service {:?}", request.service);
                    return Err(Error::NotFound(unknown));
                }
                let message = encode(&response(serving_status(&health, &stop).await))?;
                Ok(Reply { message, reservation: None })
            };
            call.unary(check).await
        }
        "Watch" => {
            let request = call.message().await?;
            Ok(watch(health.clone(), &request, stop))
        }
        _ => Err(unimplemented(HEALTH, method)),
    }
}

/// Streams the current status, then each change, until the daemon shuts down.
fn watch(health: Health, request: &HealthCheckRequest, stop: CancellationToken) -> Response<Body> {
    let is_known = is_known(request);
    let frames = stream::unfold(Some((health, stop, None)), move |open| async move {
        let (health, stop, last) = open?;
        loop {
            let stopping = stop.is_cancelled();
            let now = if is_known {
                serving_status(&health, &stop).await
            } else {
                ServingStatus::SERVICE_UNKNOWN
            };
            if last != Some(now) {
                return Some(match encode(&response(now)) {
                    Ok(message) => {
                        let frame = Frame::data(message::frame(&message));
                        (Ok(frame), Some((health, stop, Some(now))))
                    }
                    Err(why) => (Ok(Frame::trailers(status::trailers(&why))), None),
                });
            }
            if stopping {
                return Some((Ok(Frame::trailers(message::ok_trailers())), None));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    });
    message::response(message::infallible_body(StreamBody::new(frames)))
}

fn is_known(request: &HealthCheckRequest) -> bool {
    KNOWN.contains(&request.service.as_str())
}

async fn serving_status(health: &Health, stop: &CancellationToken) -> ServingStatus {
    if !stop.is_cancelled() && health.check().await.is_ok() {
        ServingStatus::SERVING
    } else {
        ServingStatus::NOT_SERVING
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into(), ..HealthCheckResponse::default() }
}

//! Subscriptions: opened, known to be there, and read to an end.

use std::time::Duration;

use http::uri::PathAndQuery;
use lmdb_images::api::event::Envelope;
use lmdb_images::api::events::{PublishRequest, SubscribeRequest};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::answer;
use super::request::{TOKEN, unnumbered};
use crate::support::{EVENTS, Failed, Raw, grpc};

/// The namespace of events that tell where a stream stands.
const MARKER: &str = "marker";
/// Lets them through any filters.
pub const LET_MARKERS: &str = "namespace==marker";
const WAIT: Duration = Duration::from_secs(20);

/// A subscription that is known to be there.
pub struct Watch {
    channel: Channel,
    stream: Streaming<Vec<u8>>,
}

impl Watch {
    /// Subscribes; markers are published until the first comes, or an error.
    pub async fn open(channel: &Channel, filters: &[String]) -> Result<Self, Failed> {
        let request = SubscribeRequest { filters: filters.to_vec(), ..Default::default() };
        let opened = channel.clone();
        let mut first = tokio::spawn(async move {
            let failed =
                |s: tonic::Status| Failed { code: s.code() as i32, message: s.message().into() };
            let mut grpc = tonic::client::Grpc::new(opened);
            grpc.ready().await.unwrap();
            let path = PathAndQuery::try_from(format!("/{EVENTS}/Subscribe")).unwrap();
            let request = tonic::Request::new(request.write_to_bytes().unwrap());
            let mut stream =
                grpc.server_streaming(request, path, Raw).await.map_err(failed)?.into_inner();
            let ended = Failed { code: -1, message: "the stream ended".into() };
            stream.message().await.map_err(failed)?.ok_or(ended)?;
            Ok(stream)
        });
        let opening = async {
            loop {
                mark(channel, "/begin").await;
                match timeout(Duration::from_millis(5), &mut first).await {
                    Ok(opened) => break opened.unwrap(),
                    Err(_) => continue,
                }
            }
        };
        let stream = timeout(WAIT, opening).await.unwrap_or_else(|_| panic!("no marker came"))?;
        Ok(Self { channel: channel.clone(), stream })
    }

    /// The events of a sequence since the subscription.
    pub async fn close(mut self, sequence: u64) -> Vec<String> {
        mark(&self.channel, "/end").await;
        let mut events = Vec::new();
        let reading = async {
            loop {
                let message = match self.stream.message().await {
                    Ok(Some(message)) => unnumbered(&message, sequence),
                    other => panic!("the stream ended: {other:?}"),
                };
                let envelope = Envelope::parse_from_bytes(&message).unwrap();
                if envelope.namespace == MARKER && envelope.topic == "/end" {
                    break;
                }
                if envelope.namespace.contains(TOKEN) {
                    events.push(answer::envelope(&envelope));
                }
            }
        };
        timeout(WAIT, reading).await.unwrap_or_else(|_| panic!("the last marker did not come"));
        events
    }
}

async fn mark(channel: &Channel, topic: &str) {
    let event = Any { type_url: "marker".into(), ..Any::default() };
    let request =
        PublishRequest { topic: topic.into(), event: Some(event).into(), ..Default::default() };
    let message = request.write_to_bytes().unwrap();
    grpc(channel, EVENTS, "Publish", Some(MARKER), message).await.unwrap();
}

//! A client of the catalogue, over either protocol, that shows the reasons of errors too.

use std::collections::BTreeMap;
use std::path::Path;

use http::uri::PathAndQuery;
use lmdb_images::api::catalog::{WatchRequest, WatchResponse, watch_response};
use lmdb_images::api::error_details::ErrorInfo;
use lmdb_images::api::status::Status;
use protobuf::Message;
use tonic::transport::Channel;

use crate::support::{Client, Protocol, Raw, Served};

pub const CATALOG: &str = "lmdbimages.v1.Catalog";

/// A status that is not OK, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: tonic::Code,
    pub message: String,
    pub reason: String,
    pub metadata: BTreeMap<String, String>,
}

impl Refused {
    pub fn is(&self, code: tonic::Code, reason: &str) -> bool {
        self.code == code && self.reason == reason
    }
}

fn refused(code: i32, message: &str, details: &[protobuf::well_known_types::any::Any]) -> Refused {
    let info: ErrorInfo =
        details.first().map(|any| any.unpack().unwrap().unwrap()).unwrap_or_default();
    Refused {
        code: tonic::Code::from_i32(code),
        message: message.into(),
        reason: info.reason,
        metadata: info.metadata,
    }
}

fn from_tonic(status: &tonic::Status) -> Refused {
    let details = Status::parse_from_bytes(status.details()).unwrap().details;
    refused(status.code() as i32, status.message(), &details)
}

#[derive(Clone)]
pub struct Catalog(pub Client);

impl Catalog {
    pub async fn of(served: &Served, protocol: Protocol) -> Self {
        Self(served.client(protocol).await)
    }

    pub async fn grpc(path: &Path) -> Self {
        Self(Client::grpc(path).await)
    }

    fn channel(&self) -> &Channel {
        match &self.0 {
            Client::Grpc(channel) => channel,
            Client::Ttrpc(_) => panic!("streams are gRPC's"),
        }
    }

    /// One call in the namespace `n`.
    pub async fn call<R: Message>(
        &self,
        method: &str,
        message: impl Message,
    ) -> Result<R, Refused> {
        self.call_in("n", method, message).await
    }

    pub async fn call_in<R: Message>(
        &self,
        namespace: &str,
        method: &str,
        message: impl Message,
    ) -> Result<R, Refused> {
        let bytes = message.write_to_bytes().unwrap();
        let answer = match &self.0 {
            Client::Grpc(channel) => {
                let mut request = tonic::Request::new(bytes);
                request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
                let mut grpc =
                    tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
                grpc.ready().await.unwrap();
                let path = PathAndQuery::try_from(format!("/{CATALOG}/{method}")).unwrap();
                let answer = grpc.unary(request, path, Raw).await;
                answer.map(tonic::Response::into_inner).map_err(|status| from_tonic(&status))?
            }
            Client::Ttrpc(client) => {
                let mut request = ttrpc::Request::new();
                request.service = CATALOG.into();
                request.method = method.into();
                request.payload = bytes;
                request.timeout_nano = 60_000_000_000;
                request.metadata.push(ttrpc::proto::KeyValue {
                    key: "containerd-namespace-ttrpc".into(),
                    value: namespace.into(),
                    ..Default::default()
                });
                match client.request(request).await {
                    Ok(response) => response.payload,
                    Err(ttrpc::Error::RpcStatus(s)) => {
                        let details: Vec<_> = s
                            .details
                            .iter()
                            .map(|any| protobuf::well_known_types::any::Any {
                                type_url: any.type_url.clone(),
                                value: any.value.clone(),
                                ..Default::default()
                            })
                            .collect();
                        return Err(refused(s.code.value(), &s.message, &details));
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        Ok(R::parse_from_bytes(&answer).unwrap())
    }

    /// A stream of messages.
    pub async fn stream<R: Message>(
        &self,
        method: &str,
        message: impl Message,
    ) -> Result<Stream<R>, Refused> {
        let mut request = tonic::Request::new(message.write_to_bytes().unwrap());
        request.metadata_mut().insert("containerd-namespace", "n".parse().unwrap());
        let mut grpc =
            tonic::client::Grpc::new(self.channel().clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/{CATALOG}/{method}")).unwrap();
        let answer = grpc.server_streaming(request, path, Raw).await;
        let stream = answer.map_err(|status| from_tonic(&status))?.into_inner();
        Ok(Stream { stream, _message: std::marker::PhantomData })
    }

    pub async fn watch(&self, request: WatchRequest) -> Result<Stream<WatchResponse>, Refused> {
        self.stream("Watch", request).await
    }
}

pub struct Stream<R> {
    stream: tonic::Streaming<Vec<u8>>,
    _message: std::marker::PhantomData<R>,
}

impl<R: Message> Stream<R> {
    pub async fn next(&mut self) -> Option<Result<R, Refused>> {
        match self.stream.message().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some(Ok(R::parse_from_bytes(&bytes).unwrap())),
            Err(status) => Some(Err(from_tonic(&status))),
        }
    }
}

impl Stream<WatchResponse> {
    /// The next message.
    pub async fn is(&mut self) -> watch_response::Is {
        self.next().await.expect("the watch ended").unwrap().is.unwrap()
    }

    /// The changes of the next messages, until there are `count`.
    pub async fn changes(&mut self, count: usize) -> Vec<lmdb_images::api::catalog::Change> {
        let mut found = Vec::new();
        while found.len() < count {
            if let watch_response::Is::Changes(changes) = self.is().await {
                found.extend(changes.changes);
            }
        }
        assert_eq!(found.len(), count);
        found
    }
}

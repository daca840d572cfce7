//! A client of either protocol: one connection, one call at a time, bytes in and bytes out.
//!
//! Requests are made before the clock runs, and the client examines only the status of an answer. The client shares the
//! machine's processors with the server, so any other work of the client would lower the rates.

use std::path::Path;

use bytes::Bytes;
use protobuf::Message;

use super::Result;
use super::grpc::{self, Grpc};
use super::ttrpc::{self, Ttrpc};

/// The namespace of all images.
pub const NAMESPACE: &str = "bench";

/// The service that most calls go to.
pub const IMAGES: &str = "containerd.services.images.v1.Images";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// ttrpc.
    Ttrpc,
}

impl Protocol {
    /// A request, encoded as far as it can be before it has a connection.
    pub fn prepare(self, service: &str, method: &str, message: &impl Message) -> Result<Prepared> {
        let message = message.write_to_bytes()?;
        match self {
            Self::Grpc => grpc::prepare(service, method, &message),
            Self::Ttrpc => ttrpc::prepare(service, method, message),
        }
    }

    /// A request to Images.
    pub fn images(self, method: &str, message: &impl Message) -> Result<Prepared> {
        self.prepare(IMAGES, method, message)
    }
}

/// A request that is ready to be sent.
#[derive(Clone)]
pub struct Prepared {
    /// `/service/method`, for gRPC.
    pub uri: http::Uri,
    /// The message with what goes around it.
    pub bytes: Bytes,
}

/// One connection.
pub enum Client {
    /// To a gRPC socket.
    Grpc(Grpc),
    /// To a ttrpc socket.
    Ttrpc(Ttrpc),
}

impl Client {
    /// Connects; when this returns, the connection can carry calls.
    pub async fn connect(protocol: Protocol, socket: &Path) -> Result<Self> {
        Ok(match protocol {
            Protocol::Grpc => Self::Grpc(Grpc::connect(socket).await?),
            Protocol::Ttrpc => Self::Ttrpc(Ttrpc::connect(socket).await?),
        })
    }

    /// Makes a call; gives back how many bytes its answer has. A status that is not OK is an error.
    pub async fn call(&mut self, request: &Prepared) -> Result<usize> {
        match self {
            Self::Grpc(client) => client.call(request, |_| {}).await,
            Self::Ttrpc(client) => client.call(request).await.map(<[u8]>::len),
        }
    }

    /// Makes a call and decodes its answer, to look at what a server says before it is measured.
    pub async fn ask<R: Message>(&mut self, request: &Prepared) -> Result<R> {
        match self {
            Self::Grpc(client) => {
                let mut whole = Vec::new();
                client.call(request, |data| whole.extend_from_slice(data)).await?;
                let message = whole.get(grpc::PREFIX..).ok_or("the answer carries no message")?;
                Ok(R::parse_from_bytes(message)?)
            }
            Self::Ttrpc(client) => {
                Ok(R::parse_from_bytes(&ttrpc::payload(client.call(request).await?)?)?)
            }
        }
    }
}

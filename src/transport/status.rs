//! The one table from errors to status codes. gRPC and ttrpc number their codes alike.

use tonic::Code;

use crate::model::Error;

/// The status code of an error.
pub fn code(error: &Error) -> Code {
    match error {
        Error::InvalidArgument(_) => Code::InvalidArgument,
        Error::NotFound(_) => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::FailedPrecondition(_) => Code::FailedPrecondition,
        Error::ResourceExhausted(_) => Code::ResourceExhausted,
        Error::Unavailable(_) => Code::Unavailable,
        Error::DataLoss(_) => Code::DataLoss,
        Error::PermissionDenied(_) => Code::PermissionDenied,
        Error::Unimplemented(_) => Code::Unimplemented,
        Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
        Error::Internal(_) => Code::Internal,
        Error::Answered(code, _) => Code::from_i32(*code),
        Error::Unknown(_) => Code::Unknown,
    }
}

/// The status of gRPC for an error.
pub fn grpc(error: &Error) -> tonic::Status {
    tonic::Status::new(code(error), error.message())
}

/// The trailers that end a stream with an error.
pub fn trailers(error: &Error) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    if grpc(error).add_header(&mut trailers).is_err() {
        // A sentence that no header can hold: the code says enough.
        trailers.insert("grpc-status", http::HeaderValue::from(code(error) as i32));
    }
    trailers
}

/// The status of ttrpc for an error; there it travels in the reply.
pub fn ttrpc(error: &Error) -> ttrpc::Status {
    ttrpc::Status {
        code: protobuf::EnumOrUnknown::from_i32(code(error) as i32),
        message: error.message().to_owned(),
        ..ttrpc::Status::default()
    }
}

/// What is answered when a call panics. The panic itself is in the log.
pub fn panicked() -> Error {
    Error::Internal("the call failed by a fault in lmdb-images; its log says where".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_carry_the_same_code_and_sentence() {
        for error in [
            Error::not_found("x"),
            Error::DataLoss("y".into()),
            panicked(),
            Error::Unknown("z".into()),
        ] {
            let (grpc, ttrpc) = (grpc(&error), ttrpc(&error));
            assert_eq!(grpc.code() as i32, ttrpc.code.value());
            assert_eq!(grpc.message(), ttrpc.message);
        }
    }
}

//! The one table from errors to status codes. gRPC and ttrpc use the same numbers.
//!
//! An error message may quote a value of the request, which may have any length. gRPC sends the
//! message as a header, and a client ends the call without a code when the headers are too long for
//! it: grpc-go accepts 16 MiB, hyper and tonic 16 KiB, gRPC's C core (Python, C++) 8 KiB. So
//! [`grpc`] and [`ttrpc`](fn@ttrpc) cut a long message in its middle, which keeps its beginning and
//! the kind of error at its end.

use std::borrow::Cow;

use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tonic::Code;

use crate::api::ApiMessage;
use crate::api::catalog::{ApplyResponse, ApplyResult};
use crate::api::error_details::ErrorInfo;
use crate::api::status::Status;
use crate::model::{Error, Result};
use crate::service::catalog::batch::Applied;

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
        Error::OutOfRange(_) => Code::OutOfRange,
        Error::Unimplemented(_) => Code::Unimplemented,
        Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
        Error::Internal(_) => Code::Internal,
        Error::Upstream(code, _) => Code::from_i32(*code),
        Error::Unknown(_) => Code::Unknown,
        Error::Detailed(error, _) => self::code(error),
    }
}

/// The longest message of a status, in bytes of its header.
pub(crate) const MAX_MESSAGE: usize = 6 << 10;

/// The most bytes that a character takes in a header. Some characters count as escaped although no
/// client needs that.
fn header_bytes(character: char) -> usize {
    let is_plain = character.is_ascii_alphanumeric() || "-._/:".contains(character);
    if is_plain { 1 } else { 3 * character.len_utf8() }
}

/// The message of an error, as a header carries it.
fn message(error: &Error) -> Cow<'_, str> {
    cut(error.message())
}

/// A sentence, cut in its middle when it is too long for a header.
pub fn cut(message: &str) -> Cow<'_, str> {
    let length = |text: &str| text.chars().map(header_bytes).sum::<usize>();
    // The first test avoids the count of characters for most messages.
    if message.len() * 3 <= MAX_MESSAGE || length(message) <= MAX_MESSAGE {
        return Cow::Borrowed(message);
    }
    let half = (MAX_MESSAGE - length(&left_out(message.len()))) / 2;
    let fitting = |bytes: &mut usize, character: char| {
        *bytes += header_bytes(character);
        (*bytes <= half).then_some(character.len_utf8())
    };
    let head: usize = message.chars().scan(0, fitting).sum();
    let tail: usize = message.chars().rev().scan(0, fitting).sum();
    let (head, rest) = message.split_at(head);
    let (middle, tail) = rest.split_at(rest.len() - tail);
    Cow::Owned(format!("{head}{}{tail}", left_out(middle.len())))
}

fn left_out(bytes: usize) -> String {
    format!("[... {bytes} bytes left out ...]")
}

/// The domain of the causes of errors: the package of the service that has them.
const CAUSE_DOMAIN: &str = "lmdbimages.v1";

/// The status of an error as a message.
fn rpc(error: &Error) -> Status {
    Status {
        code: code(error) as i32,
        message: message(error).into_owned(),
        details: detail(error).into_iter().collect(),
        ..Status::default()
    }
}

/// The response of an Apply, with the status of each item.
pub(crate) fn apply_response(results: Vec<Result<Applied>>) -> ApplyResponse {
    let result = |result: Result<Applied>| match result {
        Ok(Applied { etag, seq }) => ApplyResult { etag, seq, ..ApplyResult::default() },
        Err(e) => ApplyResult { status: Some(rpc(&e)).into(), ..ApplyResult::default() },
    };
    let results = results.into_iter().map(result).collect();
    ApplyResponse { results, ..ApplyResponse::default() }
}

/// The status of gRPC for an error.
pub fn grpc(error: &Error) -> tonic::Status {
    let is_detailed = matches!(error, Error::Detailed(..));
    match is_detailed.then(|| rpc(error).write_to_bytes()) {
        Some(Ok(details)) => {
            tonic::Status::with_details(code(error), message(error), details.into())
        }
        _ => tonic::Status::new(code(error), message(error)),
    }
}

/// The cause of an error as a detail of a status.
fn detail(error: &Error) -> Option<Any> {
    let Error::Detailed(_, cause) = error else { return None };
    let metadata = cause.metadata.iter();
    let info = ErrorInfo {
        reason: cause.reason.into(),
        domain: CAUSE_DOMAIN.into(),
        metadata: metadata
            .map(|(key, value)| ((*key).to_owned(), cut(value).into_owned()))
            .collect(),
        ..ErrorInfo::default()
    };
    let type_url = format!("type.googleapis.com/{}", ErrorInfo::LAYOUT.name);
    Some(Any { type_url, value: info.write_to_bytes().ok()?, ..Any::default() })
}

/// The trailers that end a stream with an error.
pub fn trailers(error: &Error) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    if grpc(error).add_header(&mut trailers).is_err() {
        // No header can carry the message, so the client gets the code alone.
        trailers.insert("grpc-status", http::HeaderValue::from(code(error) as i32));
    }
    trailers
}

/// The status of ttrpc for an error. ttrpc carries it in the reply.
pub fn ttrpc(error: &Error) -> ttrpc::Status {
    ttrpc::Status {
        code: protobuf::EnumOrUnknown::from_i32(code(error) as i32),
        message: message(error).into_owned(),
        details: detail(error).into_iter().map(ttrpc_any).collect(),
        ..ttrpc::Status::default()
    }
}

/// The library has a type of its own for `google.protobuf.Any`, with the same fields.
fn ttrpc_any(detail: Any) -> ttrpc::proto::Any {
    ttrpc::proto::Any {
        type_url: detail.type_url,
        value: detail.value,
        ..ttrpc::proto::Any::default()
    }
}

/// The error of a call that panicked. The panic itself is in the log.
pub fn panicked() -> Error {
    Error::Internal("the call failed by a fault in lmdb-images; its log says where".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_carry_the_same_code_and_message() {
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

    #[test]
    fn a_message_too_long_for_a_header_is_cut_in_its_middle() {
        for piece in ["x", "é", "\"", "%", "\u{10ffff}", "%20"] {
            let error = Error::not_found(format_args!("image \"{}\"", piece.repeat(40_000)));
            let (grpc, ttrpc) = (grpc(&error), ttrpc(&error));
            assert_eq!(grpc.message(), ttrpc.message);
            assert!(grpc.message().starts_with(&format!("image \"{piece}")), "{}", grpc.message());
            assert!(
                grpc.message().ends_with(&format!("{piece}\": not found")),
                "{}",
                grpc.message()
            );
            let left_out = grpc.message().split(" bytes left out ...]").next().unwrap();
            let left_out: usize = left_out.rsplit(' ').next().unwrap().parse().unwrap();
            let kept = grpc.message().replace(&super::left_out(left_out), "").len();
            assert_eq!(kept + left_out, error.message().len());
            let header = trailers(&error).get("grpc-message").unwrap().len();
            assert!((1000..=MAX_MESSAGE).contains(&header), "{piece} takes {header} bytes");
        }
    }

    #[test]
    fn both_protocols_carry_the_cause_of_an_error_for_programs() {
        let error = Error::OutOfRange("gone".into())
            .with_reason("COMPACTED", vec![("first", "7".to_owned())]);
        let expected = ErrorInfo {
            reason: "COMPACTED".into(),
            domain: CAUSE_DOMAIN.into(),
            metadata: [("first".to_owned(), "7".to_owned())].into(),
            ..ErrorInfo::default()
        };
        let grpc = grpc(&error);
        assert_eq!((grpc.code(), grpc.message()), (Code::OutOfRange, "gone"));
        let status = Status::parse_from_bytes(grpc.details()).unwrap();
        assert_eq!((status.code, status.message.as_str()), (Code::OutOfRange as i32, "gone"));
        assert_eq!(status.details[0].unpack::<ErrorInfo>().unwrap().unwrap(), expected);
        let ttrpc = ttrpc(&error);
        assert_eq!(ttrpc.code.value(), Code::OutOfRange as i32);
        assert_eq!(ttrpc.details[0].type_url, status.details[0].type_url);
        assert_eq!(ErrorInfo::parse_from_bytes(&ttrpc.details[0].value).unwrap(), expected);
    }

    #[test]
    fn a_message_that_fits_is_unchanged() {
        for length in [100, MAX_MESSAGE / 3, MAX_MESSAGE] {
            let error = Error::Unknown("x".repeat(length));
            assert_eq!(grpc(&error).message(), error.message());
        }
    }
}

//! Page tokens: the position where a list continues.
//!
//! A token contains the position of the last image, the request that it belongs to, and the log's epoch and
//! newest change when the first page was read. Its end is a plain hash over all of that and the store's
//! UUID, so a token of another store and one that was cut or edited are refused. A key would add
//! nothing: a forged token can only name another position in a namespace that its client may read anyway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::model::{Error, Result};
use crate::store::Snapshot;

/// The reason in the error for a token that cannot be used.
const REASON: &str = "PAGE_TOKEN";

/// The longest token, in bytes. A position has at most 417.
const MAX_TOKEN_BYTES: usize = 1024;

/// The first byte of a token.
const VERSION: u8 = 1;

/// The bytes of a token's hashes.
const REQUEST_BYTES: usize = 16;
const CHECK_BYTES: usize = 8;

/// The hash of a request: all pages must belong to the same request.
pub(crate) type RequestHash = [u8; REQUEST_BYTES];

/// The moment at which the first page was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// The log's epoch; nil while the log is off.
    pub epoch: uuid::Uuid,
    /// The newest change.
    pub seq: u64,
}

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    /// The request.
    pub request: RequestHash,
    /// The moment at which the first page was read.
    pub start: Start,
    /// The position behind which the next page begins.
    pub position: Vec<u8>,
}

/// The number of items of a page, for the number in a request.
pub fn page_size(wanted: i32, default: usize, max: usize) -> Result<usize> {
    match usize::try_from(wanted) {
        Ok(0) => Ok(default),
        Ok(wanted) => Ok(wanted.min(max)),
        Err(_) => Err(Error::invalid_argument(format_args!(
            "page_size {wanted} is negative; give 0 for {default}, or at most {max}"
        ))),
    }
}

impl Start {
    /// The moment of a snapshot.
    pub fn at(snapshot: &Snapshot<'_>) -> Result<Self> {
        let head = snapshot.log_head()?;
        Ok(head.map_or(Self::default(), |head| Self { epoch: head.epoch, seq: head.last }))
    }

    /// The epoch as messages have it: empty while the log is off.
    pub(crate) fn epoch_text(&self) -> String {
        if self.epoch.is_nil() { String::new() } else { self.epoch.to_string() }
    }
}

/// Hashes a method and the parts of its request that all pages have in common.
pub fn request_hash(method: &str, parts: &[&[String]]) -> RequestHash {
    let mut hash = Sha256::new_with_prefix(method);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        for text in *part {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    truncated(hash)
}

impl PageToken {
    /// The token for clients of the store `uuid`.
    pub fn encode(&self, uuid: &str) -> String {
        let start =
            [self.start.epoch.as_bytes().as_slice(), &self.start.seq.to_be_bytes()].concat();
        let body = [&[VERSION], self.request.as_slice(), &start, &self.position].concat();
        URL_SAFE_NO_PAD.encode([body.as_slice(), &check(uuid, &body)].concat())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// `InvalidArgument` if the store `uuid` did not make it, or made it for another request.
    pub fn decode(token: &str, uuid: &str, request: &RequestHash) -> Result<Self> {
        let refused = |what: &str| {
            let message = format!(
                "page_token {what}; send next_page_token of the page before, unchanged, or none to list \
                 from the beginning"
            );
            Error::invalid_argument(message).with_reason(REASON, Vec::new())
        };
        let none = || refused("is no page token of lmdb-images");
        if token.len() > MAX_TOKEN_BYTES {
            return Err(none());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| none())?;
        let (body, found) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or_else(none)?;
        if *found != check(uuid, body) {
            return Err(refused("was changed on its way, or another store made it"));
        }
        let token = Self::parse(body).ok_or_else(none)?;
        if token.request != *request {
            return Err(refused(
                "belongs to another request: only page_size and read_mask may differ between pages",
            ));
        }
        Ok(token)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (request, rest) = body.strip_prefix(&[VERSION])?.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (seq, position) = rest.split_first_chunk()?;
        let start = Start { epoch: uuid::Uuid::from_bytes(*epoch), seq: u64::from_be_bytes(*seq) };
        Some(Self { request: *request, start, position: position.to_vec() })
    }
}

fn check(uuid: &str, body: &[u8]) -> [u8; CHECK_BYTES] {
    truncated(Sha256::new_with_prefix(uuid).chain_update(body))
}

fn truncated<const N: usize>(hash: Sha256) -> [u8; N] {
    let hash = hash.finalize();
    hash.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORE: &str = "6a2f4f0e-7d6b-4a0d-8a06-0a7a4c1f5e11";

    fn token() -> PageToken {
        PageToken {
            request: request_hash("List", &[&["n".to_owned()], &[], &[]]),
            start: Start { epoch: uuid::Uuid::from_u128(5), seq: 7 },
            position: b"docker.io/library/a:1".to_vec(),
        }
    }

    fn refusal(text: &str, uuid: &str, request: &RequestHash) -> String {
        let error = PageToken::decode(text, uuid, request).unwrap_err();
        assert!(
            matches!(&error, Error::Detailed(_, detail) if detail.reason == REASON),
            "{error:?}"
        );
        error.message().to_owned()
    }

    #[test]
    fn a_token_is_valid_only_for_its_store_and_its_request() {
        let token = token();
        let text = token.encode(STORE);
        assert_eq!(PageToken::decode(&text, STORE, &token.request), Ok(token.clone()));
        assert!(refusal(&text, "another", &token.request).contains("another store made it"));
        let other = request_hash("List", &[&["n".to_owned()], &["f".to_owned()], &[]]);
        assert!(refusal(&text, STORE, &other).contains("belongs to another request"));
        for nonsense in ["", "x", "=", "é", &"A".repeat(2000), &format!("{text}=")] {
            assert!(
                refusal(nonsense, STORE, &token.request).contains("is no page token"),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn the_hash_of_a_request_separates_its_texts() {
        let hash = |filters: &[&str], without: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            request_hash("List", &[&owned(filters), &owned(without)])
        };
        let all =
            [hash(&["ab"], &[]), hash(&["a", "b"], &[]), hash(&["a"], &["b"]), hash(&[], &["ab"])];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(at in 0_usize..120, bit in 0_u8..8) {
            let token = token();
            let mut bytes = URL_SAFE_NO_PAD.decode(token.encode(STORE)).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let text = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert!(PageToken::decode(&text, STORE, &token.request).is_err());
        }
    }
}

//! Etags: which version of an image a client has seen.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The bytes of the hash in an etag. A client that chooses both records cannot make two hashes of this
/// length collide.
const HASH_BYTES: usize = 16;

/// The etag of a stored record. Every change of an image changes its `updated_at`, so an image never gets
/// an etag that it had before.
pub(crate) fn etag(record: &[u8]) -> String {
    let hash = Sha256::digest(record);
    URL_SAFE_NO_PAD.encode(hash.get(..HASH_BYTES).unwrap_or_default())
}

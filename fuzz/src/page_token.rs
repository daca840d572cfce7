//! Page tokens: each text is refused or decoded, and a decoded token is encoded to the same text.

use lmdb_images::service::catalog::token::{PageToken, Start, request_hash};

use super::Input;

const STORE: &str = "6a2f4f0e-7d6b-4a0d-8a06-0a7a4c1f5e11";

/// See the module.
pub fn run(data: &[u8]) {
    let request = request_hash("List", &[&["n".to_owned()]]);
    let text = String::from_utf8_lossy(data);
    if let Ok(token) = PageToken::decode(&text, STORE, &request) {
        assert_eq!(token.encode(STORE), text);
    }
    let mut input = Input(data);
    let start = Start { seq: u64::from(input.byte()), ..Start::default() };
    let position = input.bytes(417).to_vec();
    let token = PageToken { request, start, position };
    let text = token.encode(STORE);
    assert_eq!(PageToken::decode(&text, STORE, &request), Ok(token));
    assert!(PageToken::decode(&text, "another", &request).is_err());
}

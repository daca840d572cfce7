//! What clients can see of the Go standard library through containerd's
//! answers: how it quotes, which runes it prints, how bytes that are not UTF-8
//! come out, which regular expressions it takes, and which times.
//!
//! Everything here follows Go 1.26, which builds containerd 2.3.4; its tables
//! are those of Unicode 15.0.

pub mod charset;
pub mod quote;
pub mod regexp;
pub mod rfc3339;
pub mod text;

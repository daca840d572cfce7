//! Parts of the Go standard library, exactly as Go has them, for programs that must answer like a program
//! written in Go: a server that takes over a Go server's protocol, a tool that compares its outputs.
//!
//! | module | Go's |
//! |---|---|
//! | [`quote`] | `strconv.Quote` and the verb `%q`; literals with Go's escapes |
//! | [`regexp`] | `regexp.MatchString`: which patterns compile, with which error, and what they match |
//! | [`charset`] | `unicode.IsGraphic`, `IsPrint`, `IsSpace`, `SimpleFold`; categories and scripts |
//! | [`text`] | the runes of a string that need not be UTF-8 |
//! | [`rfc3339`] | `time.Parse(time.RFC3339, text)` |
//!
//! Everything follows Go 1.26, whose tables are those of Unicode 15.0.
//!
//! ```
//! use go_compat::{quote::quote, regexp};
//!
//! assert_eq!(quote(b"caf\xc3\xa9\xff\n"), r#""café\xff\n""#);
//!
//! let pattern = regexp::compile(br"^\d+$", regexp::SIZE_LIMIT)?;
//! assert!(pattern.matcher.is_match("42"));
//! // Go's \d is ASCII.
//! assert!(!pattern.matcher.is_match("٤٢"));
//! assert_eq!(
//!     regexp::compile(b"a**", regexp::SIZE_LIMIT).unwrap_err().to_string(),
//!     "invalid nested repetition operator"
//! );
//! # Ok::<(), regexp::RegexpError>(())
//! ```

#![forbid(unsafe_code)]
#![deny(unreachable_pub)]

pub mod charset;
pub mod quote;
pub mod regexp;
pub mod rfc3339;
pub mod text;

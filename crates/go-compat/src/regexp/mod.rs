//! Go's regular expressions, matched by the automata of the `regex` crate.
//!
//! Both descend from RE2, and look alike enough that a pattern mostly means the
//! same to both; mostly is not enough. So a pattern is parsed here, by the rules
//! of Go 1.26's `regexp.Compile`, into the syntax tree of `regex-syntax`, which
//! `regex-automata` compiles. `regex-syntax` brings the Unicode tables and set
//! operations; [`matcher`] says why the automata are used and not `regex` itself.
//!
//! Only *whether* a pattern matches is kept. Which part matches, and so capture
//! groups and greediness, is dropped.
//!
//! # What Go does, and other dialects do not
//! - `\d`, `\s` (no `\v`), `\w`, `\b` and `[[:alpha:]]` are ASCII. `(?i)` is not:
//!   `(?i)k` matches the Kelvin sign, `(?i)\w` too.
//! - `$` is the very end of the text unless `(?m)`; `\Z`, `\C`, `\G`, look-around,
//!   backreferences and possessive operators are errors.
//! - A repetition operator may not follow another (`a**`), but may if something
//!   empty stands between them (`a*(?i)*`).
//! - `{` is a literal unless a repetition like `{2}`, `{2,}` or `{2,3}` follows.
//!   No count may be above 1000, nor may nested counts multiply to more.
//! - In brackets only `\`, `]`, `-` between two characters, `[:` and a leading
//!   `^` are special: there are no nested brackets and no set operators.
//! - Group names may repeat.
//! - `\p{…}` takes general categories and their long names, scripts by their
//!   full name, `Any`, `ASCII` and `Assigned`; case, spaces, hyphens and
//!   underscores in the name do not matter since Go 1.25. A script whose name is
//!   of two words (`Old_Italic`) is not found since then.
//!
//! # Limits
//! As in Go, a pattern that nests deeper than 1000 or compiles to more than 3.3
//! million instructions is an error. Go's compiled programs may take hundreds
//! of megabytes, however; here there is a limit to what one may take, and one
//! that exceeds it is [`RegexpError::TooLarge`], though Go might take it: one
//! with hundreds of copies of a large Unicode class (`\pL{1000}` would take
//! 44 MiB), or one longer than 128 KiB.
//!
//! Not followed are two slips of Go's: where alternatives begin with the same
//! letter, one folded and one not (`É(?i)É|é`), Go's factoring takes both for the
//! same; and `^\x{d800}` matches U+FFFD in Go.

mod class;
mod class_budget;
mod escape;
pub mod matcher;
mod parse;
mod piece;
mod property;

use std::fmt;

use matcher::Matcher;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Dot, Hir, Look, Repetition};

/// The memory a compiled pattern may take unless a caller says less.
pub const SIZE_LIMIT: usize = 10 << 20;

/// The longest pattern looked at, in bytes. The syntax tree takes some hundred
/// times as much.
const PATTERN_LIMIT: usize = 128 << 10;

/// Why a pattern does not compile: Go's reasons, and one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegexpError {
    /// The pattern is not UTF-8.
    InvalidUtf8,
    /// `[[:foo:]]`, `\p{Foo}` or `[b-a]`.
    InvalidCharRange,
    /// `\Z`, `\1`, `\é`.
    InvalidEscape,
    /// `(?P<>a)`.
    InvalidNamedCapture,
    /// `(?=a)`, `(?i`.
    InvalidPerlOp,
    /// `a**`.
    InvalidRepeatOp,
    /// `a{1001}`, `a{2,1}`.
    InvalidRepeatSize,
    /// `[a`.
    MissingBracket,
    /// `(a`.
    MissingParen,
    /// `*`.
    MissingRepeatArgument,
    /// A pattern that ends in `\`.
    TrailingBackslash,
    /// `a)`.
    UnexpectedParen,
    /// More than 1000 operators inside each other.
    NestingDepth,
    /// More than Go, or we, are willing to compile.
    TooLarge,
}

impl fmt::Display for RegexpError {
    /// In Go's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegexpError::InvalidUtf8 => "invalid UTF-8",
            RegexpError::InvalidCharRange => "invalid character class range",
            RegexpError::InvalidEscape => "invalid escape sequence",
            RegexpError::InvalidNamedCapture => "invalid named capture",
            RegexpError::InvalidPerlOp => "invalid or unsupported Perl syntax",
            RegexpError::InvalidRepeatOp => "invalid nested repetition operator",
            RegexpError::InvalidRepeatSize => "invalid repeat count",
            RegexpError::MissingBracket => "missing closing ]",
            RegexpError::MissingParen => "missing closing )",
            RegexpError::MissingRepeatArgument => "missing argument to repetition operator",
            RegexpError::TrailingBackslash => "trailing backslash at end of expression",
            RegexpError::UnexpectedParen => "unexpected )",
            RegexpError::NestingDepth => "expression nests too deeply",
            RegexpError::TooLarge => "expression too large",
        })
    }
}

impl std::error::Error for RegexpError {}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// For text in which each byte that is not UTF-8 is one U+FFFD, as
    /// [`lossy`](super::text::lossy) makes it: that is what Go sees in it.
    pub matcher: Matcher,
    /// What every text in which the pattern is found begins with; empty if nothing is known.
    pub beginning: Vec<u8>,
}

/// Compiles a Go pattern.
///
/// `size_limit` is how many bytes the compiled pattern may take.
///
/// # Errors
/// A pattern that Go refuses, or that exceeds the limit.
pub fn compile(pattern: &[u8], size_limit: usize) -> Result<Compiled, RegexpError> {
    let pattern = std::str::from_utf8(pattern).map_err(|_| RegexpError::InvalidUtf8)?;
    if pattern.len() > PATTERN_LIMIT {
        return Err(RegexpError::TooLarge);
    }
    let (tree, height) = parse::parse(pattern)?;
    let beginning = if height <= SHALLOW { beginning(&tree) } else { Vec::new() };
    let tree = on_rune_boundaries(tree);
    let build = || Matcher::new(&tree, size_limit).ok_or(RegexpError::TooLarge);
    if height <= SHALLOW {
        return Ok(Compiled { matcher: build()?, beginning });
    }
    // The compiler goes down the tree by recursion. What Go allows would be too
    // deep for the stack of an ordinary thread.
    let matcher = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(DEEP_STACK)
            .spawn_scoped(scope, build)
            .ok()
            .and_then(|builder| builder.join().ok())
            .unwrap_or(Err(RegexpError::TooLarge))
    })?;
    Ok(Compiled { matcher, beginning })
}

/// What every text begins with in which `tree` is found: if it is anchored at the start of the text,
/// the longest beginning that all its matches share.
fn beginning(tree: &Hir) -> Vec<u8> {
    if !tree.properties().look_set_prefix().contains(Look::Start) {
        return Vec::new();
    }
    let matches = Extractor::new().extract(tree);
    matches.longest_common_prefix().unwrap_or_default().to_vec()
}

/// How deep a tree may be to be compiled on the caller's thread, and the stack
/// that the deepest one is given: ten times what it takes without optimization.
const SHALLOW: u32 = 50;
const DEEP_STACK: usize = 32 << 20;

/// Keeps `\B` from matching between the bytes of a rune: only whole runes are
/// skipped on the way from the start of the text.
fn on_rune_boundaries(tree: Hir) -> Hir {
    if !tree.properties().look_set().contains(Look::WordAsciiNegate) {
        return tree;
    }
    let any = Box::new(Hir::dot(Dot::AnyChar));
    let skipped = Hir::repetition(Repetition { min: 0, max: None, greedy: false, sub: any });
    Hir::concat(vec![Hir::look(Look::Start), skipped, tree])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(pattern: &str) -> Option<RegexpError> {
        compile(pattern.as_bytes(), SIZE_LIMIT).err()
    }

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern.as_bytes(), SIZE_LIMIT).expect("a pattern").matcher.is_match(text)
    }

    #[test]
    fn each_reason_to_refuse() {
        for (pattern, expected) in [
            ("[[:foo:]]", RegexpError::InvalidCharRange),
            (r"\p{Grek}", RegexpError::InvalidCharRange),
            ("[z-a]", RegexpError::InvalidCharRange),
            (r"\Z", RegexpError::InvalidEscape),
            (r"\8", RegexpError::InvalidEscape),
            (r"\x{110000}", RegexpError::InvalidEscape),
            ("(?<>a)", RegexpError::InvalidNamedCapture),
            ("(?=a)", RegexpError::InvalidPerlOp),
            ("(?i-)", RegexpError::InvalidPerlOp),
            ("a{2}{3}", RegexpError::InvalidRepeatOp),
            ("a???", RegexpError::InvalidRepeatOp),
            ("(a{100}){11}", RegexpError::InvalidRepeatSize),
            ("a{1,0}", RegexpError::InvalidRepeatSize),
            ("[]", RegexpError::MissingBracket),
            ("(a", RegexpError::MissingParen),
            ("a|*", RegexpError::MissingRepeatArgument),
            ("\\", RegexpError::TrailingBackslash),
            ("a)", RegexpError::UnexpectedParen),
            (r"\pL{1000}", RegexpError::TooLarge),
        ] {
            assert_eq!(error(pattern), Some(expected), "{pattern}");
        }
        assert_eq!(compile(b"\xff", SIZE_LIMIT).err(), Some(RegexpError::InvalidUtf8));
    }

    /// Depth costs no stack: the threads that serve requests have 2 MiB, and even
    /// without optimization that must do.
    #[test]
    fn the_deepest_pattern_compiles_on_a_small_stack() {
        let deepest = |open: &str, levels: usize, close: &str| {
            format!("{}x{}", open.repeat(levels), close.repeat(levels))
        };
        for (pattern, expected) in [
            (deepest("(", 499, ")*"), None),
            (deepest("(", 500, ")*"), Some(RegexpError::NestingDepth)),
            (deepest("(?:a", 499, ")*"), None),
            (deepest("(?:a|b", 333, ")*"), None),
            (deepest("(?:", 20_000, ")"), None),
        ] {
            let found = std::thread::Builder::new()
                .stack_size(2 << 20)
                .spawn(move || error(&pattern))
                .expect("a thread")
                .join();
            assert_eq!(found.expect("no panic"), expected);
        }
    }

    /// Found by comparing with Go.
    #[test]
    fn what_is_not_a_word_boundary_lies_between_runes() {
        assert!(!matches(r"\B", "aéa"));
        assert!(matches(r"\B|[^a]", "aéa"));
        assert!(matches(r"\B", "éé"));
        assert!(matches(r"\B", ""));
    }

    /// Found by comparing with Go.
    #[test]
    fn a_repetition_may_be_repeated() {
        assert!(matches("^(?:(?:a){2})?$", ""));
        assert!(!matches("^(?:(?:a){2}){2}$", "aaa"));
        assert!(matches("^a*(?i)*$", "aaa"));
    }

    /// Each takes minutes where a step of the translation is quadratic.
    #[test]
    fn hostile_patterns_are_refused() {
        for (pattern, expected) in [
            (format!("[{}", "[:".repeat(60_000)), RegexpError::MissingBracket),
            (r"(?i)[\x00-\x{10FFFE}]".repeat(5_000), RegexpError::TooLarge),
            (r"\p{Zs}".repeat(20_000), RegexpError::TooLarge),
            ("(?:(?:(?:|){10}){10}){10}".repeat(5_000), RegexpError::TooLarge),
            (format!("(?:{}){{1000}}", "a".repeat(3_000)), RegexpError::TooLarge),
        ] {
            assert_eq!(error(&pattern), Some(expected), "{pattern:.20}");
        }
    }
}

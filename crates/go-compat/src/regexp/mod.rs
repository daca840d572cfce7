//! Go's regular expressions, matched by the automata of the `regex` crate.
//!
//! Go's `regexp` and the `regex` crate both descend from RE2, and most patterns mean the same in both, but
//! not all. So this module parses a pattern by the rules of Go 1.26's `regexp.Compile`. The result is a
//! syntax tree of `regex-syntax`, which `regex-automata` compiles. `regex-syntax` provides the Unicode tables
//! and set operations. [`matcher`] says why this module uses the automata and not `regex` itself.
//!
//! A compiled pattern only tells *whether* a text matches, not which part of it. So capture groups and
//! greediness have no effect, and are dropped.
//!
//! # How Go differs from other dialects
//! - `\d`, `\s` (which does not match `\v`), `\w`, `\b` and `[[:alpha:]]` cover ASCII only. `(?i)` covers
//!   Unicode: `(?i)k` matches the Kelvin sign, and so does `(?i)\w`.
//! - Without `(?m)`, `$` matches only at the very end of the text. `\Z`, `\C`, `\G`, look-around,
//!   backreferences and possessive operators are errors.
//! - A repetition operator directly after another is an error (`a**`). It is allowed if an empty expression
//!   stands between them (`a*(?i)*`).
//! - `{` is a literal unless a repetition like `{2}`, `{2,}` or `{2,3}` follows.
//!   A count is at most 1000, and so is the product of nested counts.
//! - In brackets only `\`, `]`, `-` between two characters, `[:` and a leading
//!   `^` are special: there are no nested brackets and no set operators.
//! - Group names may repeat.
//! - `\p{…}` accepts general categories and their long names, the full names of scripts, `Any`, `ASCII` and
//!   `Assigned`. Since Go 1.25 it ignores case, spaces, hyphens and underscores in the name, and no longer
//!   finds a script whose name has two words (`Old_Italic`).
//!
//! # Limits
//! As in Go, a pattern is an error if it nests deeper than 1000 levels or compiles to more than 3.3 million
//! instructions. A program compiled by Go may take hundreds of megabytes. This module also limits the memory
//! of a compiled pattern and the length of a pattern (128 KiB). A pattern above a limit is
//! [`RegexpError::TooLarge`], even if Go accepts it. An example is a pattern with hundreds of copies of a
//! large Unicode class: `\pL{1000}` would take 44 MiB.
//!
//! This module does not copy two bugs of Go. If two alternatives begin with the same letter, one with case
//! folding and one without (`É(?i)É|é`), Go treats both beginnings as equal. And in Go `^\x{d800}` matches
//! U+FFFD.

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

/// The usual value of `size_limit` for [`compile`]: the most memory of a compiled pattern, in bytes.
pub const SIZE_LIMIT: usize = 10 << 20;

/// The longest pattern that is parsed, in bytes. Its syntax tree takes about a hundred times as much memory.
const PATTERN_LIMIT: usize = 128 << 10;

/// Why a pattern does not compile. The reasons are Go's; [`TooLarge`](Self::TooLarge) also covers the limits
/// of this module.
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
    /// Operators nest deeper than 1000 levels.
    NestingDepth,
    /// The pattern exceeds a limit of Go or of this module.
    TooLarge,
}

impl fmt::Display for RegexpError {
    /// Writes the words that Go uses.
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
    /// The matcher. A text with invalid UTF-8 must first go through [`lossy`](super::text::lossy), which
    /// replaces each invalid byte by U+FFFD: Go's `regexp` reads such a text in the same way.
    pub matcher: Matcher,
    /// Every text that matches begins with these bytes. Empty if no common beginning is known.
    pub beginning: Vec<u8>,
}

/// Compiles a Go pattern.
///
/// `size_limit` is the most memory of the compiled pattern, in bytes.
///
/// # Errors
/// If Go refuses the pattern, or the pattern exceeds a limit.
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
    // The compiler is recursive. Go allows trees that are too deep for the stack of an ordinary thread, so
    // a deep tree is compiled on a thread with a larger stack.
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

/// The longest beginning that all matches of `tree` share. Empty if the pattern is not anchored at the start
/// of the text: then a match may begin anywhere.
fn beginning(tree: &Hir) -> Vec<u8> {
    if !tree.properties().look_set_prefix().contains(Look::Start) {
        return Vec::new();
    }
    let matches = Extractor::new().extract(tree);
    matches.longest_common_prefix().unwrap_or_default().to_vec()
}

/// The largest height of a tree that is compiled on the caller's thread.
const SHALLOW: u32 = 50;

/// The stack in bytes of the thread that compiles a deeper tree: ten times what the deepest tree takes in a
/// build without optimization.
const DEEP_STACK: usize = 32 << 20;

/// Keeps `\B` from matching between the bytes of a rune. The new pattern is anchored at the start of the
/// text and skips whole runes before `tree`, so `tree` can begin only at the start of a rune.
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

    /// The threads that serve requests have a stack of 2 MiB. It must suffice for the deepest pattern, even
    /// in a build without optimization.
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

    /// A comparison with Go found this difference.
    #[test]
    fn a_non_boundary_matches_only_between_runes() {
        assert!(!matches(r"\B", "aéa"));
        assert!(matches(r"\B|[^a]", "aéa"));
        assert!(matches(r"\B", "éé"));
        assert!(matches(r"\B", ""));
    }

    /// A comparison with Go found this difference.
    #[test]
    fn a_repetition_may_be_repeated() {
        assert!(matches("^(?:(?:a){2})?$", ""));
        assert!(!matches("^(?:(?:a){2}){2}$", "aaa"));
        assert!(matches("^a*(?i)*$", "aaa"));
    }

    /// If a step of the translation takes quadratic time, each of these patterns takes minutes.
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

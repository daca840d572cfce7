//! The grammar of patterns, except for classes and escapes.
//!
//! The parser keeps open groups in a vector, not on the stack of the thread, so
//! no pattern can exhaust that stack.

use regex_syntax::hir::{Dot, Hir, Look};

use super::RegexpError;
use super::class_budget::Classes;
use super::piece::{MAX_REPEATS, Piece};

/// The syntax tree of a pattern, without its groups, and the depth of the tree.
pub(super) fn parse(pattern: &str) -> Result<(Hir, u32), RegexpError> {
    let mut parser = Parser {
        rest: pattern,
        flags: Flags::default(),
        level: Level::default(),
        groups: Vec::new(),
        after_repetition: false,
        classes: Classes::default(),
    };
    parser.run()
}

/// The flags of `(?ims)`. `U` is accepted but makes no difference here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    pub(super) fold: bool,
    lines: bool,
    dot_all: bool,
}

pub(super) struct Parser<'p> {
    rest: &'p str,
    pub(super) flags: Flags,
    /// The innermost open group, or the whole pattern.
    level: Level,
    /// The groups around it, outermost first.
    groups: Vec<Group>,
    /// Whether the last piece is a repetition operator: another one must not follow.
    after_repetition: bool,
    pub(super) classes: Classes,
}

/// The pieces of an open group, or of the pattern outside all groups.
#[derive(Default)]
struct Level {
    /// The alternatives that a `|` has ended.
    alternatives: Vec<Piece>,
    sequence: Vec<Piece>,
}

/// An open group.
struct Group {
    /// The pieces outside the group.
    around: Level,
    /// The flags that are valid again after the group.
    flags: Flags,
    captures: bool,
}

impl Level {
    fn end_alternative(&mut self) -> Result<(), RegexpError> {
        let sequence = std::mem::take(&mut self.sequence);
        self.alternatives.push(Piece::sequence(sequence)?);
        Ok(())
    }

    fn end(mut self) -> Result<Piece, RegexpError> {
        self.end_alternative()?;
        Piece::choice(self.alternatives)
    }
}

impl<'p> Parser<'p> {
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    /// Skips `text` if it comes next.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips the next `delimiter`, if there is one, and returns the text before it.
    pub(super) fn until(&mut self, delimiter: &str) -> Option<&'p str> {
        let (before, after) = self.rest.split_once(delimiter)?;
        self.rest = after;
        Some(before)
    }

    pub(super) fn rest(&self) -> &'p str {
        self.rest
    }

    /// Continues with `rest`, the end of the remaining text.
    pub(super) fn skip_to(&mut self, rest: &'p str) {
        self.rest = rest;
    }

    fn run(&mut self) -> Result<(Hir, u32), RegexpError> {
        while let Some(next) = self.next() {
            self.after_repetition = match next {
                '*' => self.repeat(0, None)?,
                '+' => self.repeat(1, None)?,
                '?' => self.repeat(0, Some(1))?,
                '{' => self.braces()?,
                _ => {
                    self.element(next)?;
                    false
                }
            };
        }
        if !self.groups.is_empty() {
            return Err(RegexpError::MissingParen);
        }
        Ok(std::mem::take(&mut self.level).end()?.into_tree())
    }

    /// Reads a piece that begins with `first` and is not a repetition.
    fn element(&mut self, first: char) -> Result<(), RegexpError> {
        match first {
            '(' if self.eat("?") => self.extended_group(),
            '(' => {
                self.open(true);
                Ok(())
            }
            '|' => self.level.end_alternative(),
            ')' => self.close(),
            '^' => self.assert(if self.flags.lines { Look::StartLF } else { Look::Start }),
            '$' => self.assert(if self.flags.lines { Look::EndLF } else { Look::End }),
            '.' => {
                let dot = if self.flags.dot_all { Dot::AnyChar } else { Dot::AnyCharExceptLF };
                self.push(Piece::leaf(Hir::dot(dot)))
            }
            '[' => {
                let class = self.brackets()?;
                self.push(Piece::leaf(class))
            }
            '\\' => self.backslash(),
            _ => self.literal(first.into()),
        }
    }

    pub(super) fn push(&mut self, piece: Piece) -> Result<(), RegexpError> {
        self.level.sequence.push(piece);
        Ok(())
    }

    pub(super) fn assert(&mut self, look: Look) -> Result<(), RegexpError> {
        self.push(Piece::leaf(Hir::look(look)))
    }

    /// A single rune. It may be a surrogate, which matches no text.
    pub(super) fn literal(&mut self, rune: u32) -> Result<(), RegexpError> {
        let folded = self.flags.fold;
        let tree = match char::from_u32(rune) {
            None => Hir::fail(),
            Some(rune) if folded => self.classes.folded(rune)?,
            Some(rune) => Hir::literal(rune.encode_utf8(&mut [0; 4]).as_bytes()),
        };
        self.push(Piece::literal(tree, folded))
    }

    fn open(&mut self, captures: bool) {
        let around = std::mem::take(&mut self.level);
        self.groups.push(Group { around, flags: self.flags, captures });
    }

    fn close(&mut self) -> Result<(), RegexpError> {
        let group = self.groups.pop().ok_or(RegexpError::UnexpectedParen)?;
        let inner = std::mem::replace(&mut self.level, group.around).end()?;
        self.flags = group.flags;
        self.push(if group.captures { inner.captured()? } else { inner })
    }

    /// Reads the text after `(?`: the beginning of a named group or of a group
    /// that does not capture, or only flags.
    fn extended_group(&mut self) -> Result<(), RegexpError> {
        if self.eat("P<") || self.eat("<") {
            let name = self.until(">").ok_or(RegexpError::InvalidNamedCapture)?;
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(word) {
                return Err(RegexpError::InvalidNamedCapture);
            }
            self.open(true);
            return Ok(());
        }
        let mut flags = self.flags;
        let mut on = true;
        // A minus sign must be followed by some flag.
        let mut complete = true;
        loop {
            match self.next().ok_or(RegexpError::InvalidPerlOp)? {
                'i' => flags.fold = on,
                'm' => flags.lines = on,
                's' => flags.dot_all = on,
                'U' => {}
                '-' if on => {
                    (on, complete) = (false, false);
                    continue;
                }
                end @ (':' | ')') if complete => {
                    if end == ':' {
                        self.open(false);
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return Err(RegexpError::InvalidPerlOp),
            }
            complete = true;
        }
    }

    /// Removes the last piece, for an operator that applies to it. A `?` after
    /// the operator makes it lazy.
    fn operand(&mut self) -> Result<Piece, RegexpError> {
        self.eat("?");
        if self.after_repetition {
            return Err(RegexpError::InvalidRepeatOp);
        }
        self.level.sequence.pop().ok_or(RegexpError::MissingRepeatArgument)
    }

    fn repeat(&mut self, min: u32, max: Option<u32>) -> Result<bool, RegexpError> {
        let piece = self.operand()?.repeated(min, max)?;
        self.push(piece)?;
        Ok(true)
    }

    /// Reads a repetition after its opening brace, or else the brace as a literal
    /// character. Returns whether it is a repetition.
    fn braces(&mut self) -> Result<bool, RegexpError> {
        let Some((min, max, rest)) = counts(self.rest) else {
            self.literal('{'.into())?;
            return Ok(false);
        };
        self.rest = rest;
        if min > MAX_REPEATS || max.is_some_and(|max| max > MAX_REPEATS || max < min) {
            return Err(RegexpError::InvalidRepeatSize);
        }
        let piece = self.operand()?.counted(min, max)?;
        self.push(piece)?;
        Ok(true)
    }
}

/// The counts in `2}`, `2,}` or `2,3}`, and the text after them; `None` if `text`
/// does not begin with counts.
fn counts(text: &str) -> Option<(u32, Option<u32>, &str)> {
    let (min, rest) = number(text)?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, Some(min), rest));
    }
    let rest = rest.strip_prefix(',')?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, None, rest));
    }
    let (max, rest) = number(rest)?;
    Some((min, Some(max), rest.strip_prefix('}')?))
}

/// A decimal number without leading zeros. A number that is too large for its
/// type becomes the largest one, which is refused too.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if digits.is_empty() || digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_braces() {
        for (text, expected) in [
            ("2}x", Some((2, Some(2), "x"))),
            ("0,}", Some((0, None, ""))),
            ("10,20}?", Some((10, Some(20), "?"))),
            ("99999999999}", Some((u32::MAX, Some(u32::MAX), ""))),
            ("", None),
            ("2", None),
            (",2}", None),
            ("02}", None),
            ("2,03}", None),
            ("2, 3}", None),
        ] {
            assert_eq!(counts(text), expected, "{text}");
        }
    }

    #[test]
    fn groups_leave_only_their_contents() {
        let same = |pattern, plain| {
            assert_eq!(parse(pattern).map(|(tree, _)| tree), parse(plain).map(|(tree, _)| tree))
        };
        same("(?:a(b)(?P<n>c))", "abc");
        same("(?i:a)b", "[Aa]b");
        same("a*?b+?c??", "a*b+c?");
        same(r"\Qa.\E.", r"a\..");
    }
}

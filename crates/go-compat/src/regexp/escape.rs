//! Escape sequences: the text after a backslash.

use regex_syntax::hir::{Class, Hir, Look};

use super::RegexpError;
use super::parse::Parser;
use super::piece::Piece;

impl Parser<'_> {
    /// Reads an escape outside of brackets. The caller has read its backslash.
    pub(super) fn backslash(&mut self) -> Result<(), RegexpError> {
        let look = match self.peek() {
            Some('A') => Look::Start,
            Some('z') => Look::End,
            Some('b') => Look::WordAscii,
            Some('B') => Look::WordAsciiNegate,
            Some('Q') => return self.quotation(),
            _ => {
                return match self.class_escape()? {
                    Some(set) => self.push(Piece::leaf(Hir::class(Class::Unicode(set)))),
                    None => {
                        let rune = self.rune_escape()?;
                        self.literal(rune)
                    }
                };
            }
        };
        self.next();
        self.assert(look)
    }

    /// `\Q…\E`, or to the end of the pattern: literals one and all.
    fn quotation(&mut self) -> Result<(), RegexpError> {
        self.next();
        let (text, rest) = self.rest().split_once("\\E").unwrap_or((self.rest(), ""));
        self.skip_to(rest);
        text.chars().try_for_each(|rune| self.literal(rune.into()))
    }

    /// Reads an escape that stands for one rune. The caller has read its backslash.
    pub(super) fn rune_escape(&mut self) -> Result<u32, RegexpError> {
        let kind = self.next().ok_or(RegexpError::TrailingBackslash)?;
        match kind {
            'a' => Ok(0x07),
            'f' => Ok(0x0c),
            'n' => Ok(0x0a),
            'r' => Ok(0x0d),
            't' => Ok(0x09),
            'v' => Ok(0x0b),
            'x' if self.eat("{") => self.long_hex(),
            'x' => {
                let (high, low) = (self.digit(16), self.digit(16));
                let rune = high.zip(low).map(|(high, low)| high * 16 + low);
                rune.ok_or(RegexpError::InvalidEscape)
            }
            // One digit other than zero would refer to a group.
            '1'..='7' if !matches!(self.peek(), Some('0'..='7')) => Err(RegexpError::InvalidEscape),
            '0'..='7' => {
                let first = kind.to_digit(8).unwrap_or_default();
                let second = self.digit(8);
                let third = second.and_then(|_| self.digit(8));
                let more = [second, third].into_iter().flatten();
                Ok(more.fold(first, |rune, digit| rune * 8 + digit))
            }
            _ if kind.is_ascii() && !kind.is_ascii_alphanumeric() => Ok(kind.into()),
            _ => Err(RegexpError::InvalidEscape),
        }
    }

    /// The digits of `\x{…}` and the closing brace.
    fn long_hex(&mut self) -> Result<u32, RegexpError> {
        let digits = self.until("}").ok_or(RegexpError::InvalidEscape)?;
        let rune = digits.chars().try_fold(0, |rune: u32, digit| {
            let rune = rune * 16 + digit.to_digit(16)?;
            (rune <= u32::from(char::MAX)).then_some(rune)
        });
        rune.filter(|_| !digits.is_empty()).ok_or(RegexpError::InvalidEscape)
    }

    fn digit(&mut self, radix: u32) -> Option<u32> {
        let digit = self.peek()?.to_digit(radix)?;
        self.next();
        Some(digit)
    }
}

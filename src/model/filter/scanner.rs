//! Splits filters into tokens.
//!
//! The scanner keeps both ends of the rune it read last, `start` and `end`: parse errors point at one
//! or the other. It behaves like containerd's scanner, oddities included:
//! - an operator turns on *value mode*, in which the next unquoted token may consist of nearly any
//!   runes; a separator or that token turns it off, a quoted token leaves it on;
//! - white space before a token is skipped, but [`Scanner::peek`] sees it;
//! - the scanner keeps and reports its first complaint, even one from a peek.

use std::ops::Range;

use go_compat::charset::{is_graphic, is_space};
use go_compat::text::first_rune;

/// The next piece of input, before it becomes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookahead {
    /// A rune that may be part of a filter.
    Rune(char),
    /// A byte that is not UTF-8, U+FFFD, or a NUL: no token holds these.
    Illegal,
    /// The end of the text.
    End,
}

impl Lookahead {
    fn is_rune_of(self, class: impl Fn(char) -> bool) -> bool {
        matches!(self, Lookahead::Rune(rune) if class(rune))
    }
}

/// The kinds of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A literal between `"`, `/` or `|`, quotes included.
    Quoted,
    /// A bare value, scanned in value mode.
    Value,
    /// A bare word.
    Field,
    /// `,` or `.`.
    Separator,
    /// A run of `=`, `!` and `~`.
    Operator,
    /// Something that cannot be a token; [`Scanner::complaint`] says why.
    Illegal,
    /// A rune that begins no token, or the end of the input.
    Other,
}

/// A token and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// The offset that an error about this token points at.
    pub(super) at: usize,
    /// The bytes of the token; empty for [`TokenKind::Other`].
    pub(super) span: Range<usize>,
}

/// Reads tokens from a filter.
#[derive(Debug)]
pub(super) struct Scanner<'i> {
    input: &'i [u8],
    start: usize,
    end: usize,
    value_mode: bool,
    complaint: Option<&'static str>,
}

impl<'i> Scanner<'i> {
    pub(super) fn new(input: &'i [u8]) -> Self {
        Scanner { input, start: 0, end: 0, value_mode: false, complaint: None }
    }

    /// Offset after the rune read last, where a peeked rune begins.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The bytes of a token.
    pub(super) fn text(&self, token: &Token) -> &'i [u8] {
        self.input.get(token.span.clone()).unwrap_or_default()
    }

    /// Why a token is illegal: the scanner's first complaint.
    pub(super) fn complaint(&self) -> &'static str {
        self.complaint.unwrap_or_default()
    }

    fn complain(&mut self, message: &'static str) {
        self.complaint.get_or_insert(message);
    }

    /// Returns the next piece of input without consuming it. It may be white space.
    pub(super) fn peek(&mut self) -> Lookahead {
        let (start, end) = (self.start, self.end);
        let next = self.advance();
        (self.start, self.end) = (start, end);
        next
    }

    fn advance(&mut self) -> Lookahead {
        self.start = self.end;
        let rest = self.input.get(self.end..).unwrap_or_default();
        let Some((rune, width)) = first_rune(rest) else {
            return Lookahead::End;
        };
        self.end += width;
        match rune {
            None | Some(char::REPLACEMENT_CHARACTER) => {
                self.complain("rune error");
                Lookahead::Illegal
            }
            Some('\0') => {
                self.complain("unexpected null");
                Lookahead::Illegal
            }
            Some(rune) => Lookahead::Rune(rune),
        }
    }

    fn skip_while(&mut self, class: impl Fn(char) -> bool) {
        while self.peek().is_rune_of(&class) {
            self.advance();
        }
    }

    /// Takes the next token, after any white space.
    pub(super) fn scan(&mut self) -> Token {
        let mut next = self.advance();
        while next.is_rune_of(is_space) {
            next = self.advance();
        }
        let at = self.start;
        let kind = match next {
            Lookahead::End => TokenKind::Other,
            Lookahead::Illegal => TokenKind::Illegal,
            Lookahead::Rune(rune) => self.token_from(rune),
        };
        let span = if kind == TokenKind::Other { at..at } else { at..self.end };
        Token { kind, at, span }
    }

    /// Takes the rest of the token that begins with `first`.
    fn token_from(&mut self, first: char) -> TokenKind {
        if is_quote(first) {
            return if self.finish_quoted(first) { TokenKind::Quoted } else { TokenKind::Illegal };
        }
        if matches!(first, ',' | '.') {
            self.value_mode = false;
            return TokenKind::Separator;
        }
        if is_operator(first) {
            self.skip_while(is_operator);
            self.value_mode = true;
            return TokenKind::Operator;
        }
        if self.value_mode {
            // The first rune is taken whatever it is.
            self.skip_while(is_value);
            self.value_mode = false;
            return TokenKind::Value;
        }
        if is_field(first) {
            self.skip_while(is_field);
            return TokenKind::Field;
        }
        TokenKind::Other
    }

    /// Reads up to the closing quote; false if the literal is not well formed.
    fn finish_quoted(&mut self, quote: char) -> bool {
        let mut legal = true;
        let mut next = self.advance();
        loop {
            next = match next {
                Lookahead::Rune(rune) if rune == quote => return legal,
                Lookahead::Rune('\n') | Lookahead::Illegal | Lookahead::End => {
                    self.complain("quoted literal not terminated");
                    return false;
                }
                Lookahead::Rune('\\') => {
                    let (after, fine) = self.escape(quote);
                    legal &= fine;
                    after
                }
                Lookahead::Rune(_) => self.advance(),
            };
        }
    }

    /// Reads an escape sequence after its backslash. Answers what comes after
    /// it and whether the sequence is legal; of an unknown one, the rune after
    /// the backslash is what comes after.
    fn escape(&mut self, quote: char) -> (Lookahead, bool) {
        let first = self.advance();
        match first {
            Lookahead::Rune('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => {
                (self.advance(), true)
            }
            Lookahead::Rune(rune) if rune == quote => (self.advance(), true),
            Lookahead::Rune('0'..='7') => self.digits(first, 8, 3),
            Lookahead::Rune('x') => self.digits_after(2),
            Lookahead::Rune('u') => self.digits_after(4),
            Lookahead::Rune('U') => self.digits_after(8),
            _ => {
                self.complain("illegal escape sequence");
                (first, false)
            }
        }
    }

    fn digits_after(&mut self, count: usize) -> (Lookahead, bool) {
        let first = self.advance();
        self.digits(first, 16, count)
    }

    /// Reads `count` digits. `next` is the first of them.
    fn digits(&mut self, mut next: Lookahead, base: u32, count: usize) -> (Lookahead, bool) {
        for _ in 0..count {
            if !next.is_rune_of(|rune| rune.is_digit(base)) {
                self.complain("illegal numeric escape sequence");
                return (next, false);
            }
            next = self.advance();
        }
        (next, true)
    }
}

fn is_quote(rune: char) -> bool {
    matches!(rune, '"' | '/' | '|')
}

fn is_operator(rune: char) -> bool {
    matches!(rune, '=' | '!' | '~')
}

/// Whether a bare word may hold this rune. Hyphens are not among them.
pub(super) fn is_field(rune: char) -> bool {
    rune.is_ascii_alphanumeric() || rune == '_'
}

fn is_value(rune: char) -> bool {
    rune != ',' && !is_space(rune) && is_graphic(rune)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All tokens of `input` as kind and text, up to the first that is none.
    fn tokens(input: &str) -> Vec<(TokenKind, &str)> {
        let mut scanner = Scanner::new(input.as_bytes());
        let mut tokens = Vec::new();
        loop {
            let token = scanner.scan();
            tokens.push((token.kind, &input[token.span.clone()]));
            if matches!(token.kind, TokenKind::Other | TokenKind::Illegal) {
                return tokens;
            }
        }
    }

    #[test]
    fn value_mode_lasts_for_one_bare_token() {
        let expected = [
            (TokenKind::Field, "a"),
            (TokenKind::Separator, "."),
            (TokenKind::Field, "b"),
            (TokenKind::Operator, "=="),
            (TokenKind::Value, "x.y{2}=~"),
            (TokenKind::Separator, ","),
            (TokenKind::Field, "c"),
            (TokenKind::Other, ""),
        ];
        assert_eq!(tokens("a.b == x.y{2}=~ ,\tc"), expected);
    }

    #[test]
    fn quoted_tokens_leave_value_mode_on() {
        let expected = [
            (TokenKind::Operator, "~="),
            (TokenKind::Quoted, r#"/a\/b/"#),
            (TokenKind::Value, "{x}"),
            (TokenKind::Other, ""),
        ];
        assert_eq!(tokens(r"~=/a\/b/{x}"), expected);
    }

    #[test]
    fn separators_turn_value_mode_off() {
        let expected = [
            (TokenKind::Operator, "=="),
            (TokenKind::Quoted, "\"a\""),
            (TokenKind::Separator, ","),
            (TokenKind::Field, "b"),
            (TokenKind::Separator, "."),
            (TokenKind::Field, "c"),
            (TokenKind::Other, ""),
        ];
        assert_eq!(tokens("==\"a\",b.c"), expected);
    }

    #[test]
    fn the_first_error_is_reported() {
        for (input, complaint) in [
            ("\"a", "quoted literal not terminated"),
            ("\"a\n\"", "quoted literal not terminated"),
            (r#""\q"#, "illegal escape sequence"),
            (r#""\/""#, "illegal escape sequence"),
            (r#""\12""#, "illegal numeric escape sequence"),
            (r#""\u00g0""#, "illegal numeric escape sequence"),
            ("\"a\0\"", "unexpected null"),
            ("\u{fffd}", "rune error"),
        ] {
            let mut scanner = Scanner::new(input.as_bytes());
            assert_eq!(scanner.scan().kind, TokenKind::Illegal, "{input:?}");
            assert_eq!(scanner.complaint(), complaint, "{input:?}");
        }
    }

    #[test]
    fn peeking_does_not_move_and_sees_white_space() {
        let mut scanner = Scanner::new(b" a\xff");
        assert_eq!(scanner.peek(), Lookahead::Rune(' '));
        assert_eq!(scanner.scan().at, 1);
        assert_eq!((scanner.peek(), scanner.end()), (Lookahead::Illegal, 2));
        assert_eq!(scanner.complaint(), "rune error");
        scanner.advance();
        assert_eq!(scanner.peek(), Lookahead::End);
    }

    #[test]
    fn a_value_may_begin_but_not_go_on_with_an_invisible_rune() {
        let expected =
            [(TokenKind::Operator, "=="), (TokenKind::Value, "\u{200b}a"), (TokenKind::Other, "")];
        assert_eq!(tokens("==\u{200b}a\u{200b}"), expected);
    }
}

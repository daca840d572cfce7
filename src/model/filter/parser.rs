//! Parses tokens into selectors, with containerd's errors.

use std::fmt;

use go_compat::quote::{quote, unquote_delimited};
use go_compat::text::lossy;

use super::fields::MAX_FIELDS;
use super::scanner::{Lookahead, Scanner, Token, TokenKind};
use super::selector::{Operator, Pattern, Selector};

/// Why a filter does not parse.
///
/// Its text is containerd's, with each byte that is not UTF-8 replaced as gRPC
/// does; the status message adds `: invalid argument: invalid argument`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    input: Vec<u8>,
    at: usize,
    message: String,
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    /// `[before >|c|< after]` locates the error at one *byte*, which may be a
    /// part of a rune; an error at the end of the input has no location.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("filters: parse error: [")?;
        match self.input.split_at_checked(self.at) {
            Some((before, [here, after @ ..])) => {
                let (before, here, after) = (lossy(before), [*here], lossy(after));
                write!(f, "{before} >|{}|< {after}", lossy(&here))?;
            }
            _ => f.write_str(&lossy(&self.input))?,
        }
        write!(f, "]: {}", self.message)
    }
}

/// Parses a filter that is not empty. `fields` is the remaining number of field names of the request;
/// each name reduces it by one.
pub(super) fn parse(input: &[u8], fields: &mut usize) -> Result<Vec<Selector>, ParseError> {
    Parser { input, scanner: Scanner::new(input), fields }.selectors()
}

struct Parser<'i> {
    input: &'i [u8],
    scanner: Scanner<'i>,
    fields: &'i mut usize,
}

impl ParseError {
    /// The filters of a request exceed a limit. The error does not repeat the filters, which are long.
    pub(super) fn too_many(message: String) -> Self {
        Self { input: Vec::new(), at: 0, message }
    }
}

impl Parser<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError { input: self.input.to_vec(), at, message: message.into() }
    }

    /// Returns the error for a token where `expected` should be.
    fn unexpected(&self, token: &Token, expected: &str) -> ParseError {
        let message = match token.kind {
            TokenKind::Illegal => self.scanner.complaint(),
            _ => expected,
        };
        self.error(token.at, message)
    }

    /// selectors := selector (',' selector)*
    fn selectors(&mut self) -> Result<Vec<Selector>, ParseError> {
        let mut selectors = vec![self.selector()?];
        loop {
            let next = match self.scanner.peek() {
                Lookahead::End => return Ok(selectors),
                Lookahead::Rune(',') => {
                    self.scanner.scan();
                    selectors.push(self.selector()?);
                    continue;
                }
                Lookahead::Rune(rune) => rune,
                // Go prints its token code, a negative rune, as this.
                Lookahead::Illegal => char::REPLACEMENT_CHARACTER,
            };
            return Err(self.error(self.scanner.end(), format!("unexpected input: {next}")));
        }
    }

    /// selector := fieldpath (operator value)?
    fn selector(&mut self) -> Result<Selector, ParseError> {
        let path = self.path()?;
        if let Lookahead::End | Lookahead::Rune(',') = self.scanner.peek() {
            return Ok(Selector { path, operator: Operator::Present });
        }
        let token = self.scanner.scan();
        let operator = match (token.kind, self.scanner.text(&token)) {
            (TokenKind::Operator, b"==") => Operator::Equal(self.value(Quotes::Double)?),
            (TokenKind::Operator, b"!=") => Operator::NotEqual(self.value(Quotes::Double)?),
            (TokenKind::Operator, b"~=") => {
                Operator::Matches(Pattern::new(self.value(Quotes::Any)?))
            }
            (TokenKind::Operator, other) => {
                let message = format!("unsupported operator {}", quote(other));
                return Err(self.error(token.at, message));
            }
            _ => {
                let expected = r#"expected an operator ("=="|"!="|"~=")"#;
                return Err(self.unexpected(&token, expected));
            }
        };
        Ok(Selector { path, operator })
    }

    /// fieldpath := field ('.' field)*
    fn path(&mut self) -> Result<Vec<Vec<u8>>, ParseError> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Lookahead::Rune('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        Ok(path)
    }

    /// field := quoted | [A-Za-z0-9_]+
    fn field(&mut self) -> Result<Vec<u8>, ParseError> {
        *self.fields = self.fields.checked_sub(1).ok_or_else(|| {
            ParseError::too_many(format!("more than {MAX_FIELDS} fields are asked for"))
        })?;
        let token = self.scanner.scan();
        match token.kind {
            TokenKind::Field => Ok(self.scanner.text(&token).to_vec()),
            TokenKind::Quoted => self.unquote(&token, Quotes::Double),
            _ => Err(self.unexpected(&token, "expected field or quoted")),
        }
    }

    /// value := quoted | a run of visible runes other than ','
    fn value(&mut self, quotes: Quotes) -> Result<Vec<u8>, ParseError> {
        let token = self.scanner.scan();
        match token.kind {
            TokenKind::Value | TokenKind::Field => Ok(self.scanner.text(&token).to_vec()),
            TokenKind::Quoted => self.unquote(&token, quotes),
            _ => Err(self.unexpected(&token, "expected value or quoted")),
        }
    }

    fn unquote(&self, token: &Token, quotes: Quotes) -> Result<Vec<u8>, ParseError> {
        let literal = self.scanner.text(token);
        if quotes == Quotes::Double && !literal.starts_with(b"\"") {
            return Err(self.error(token.at, "invalid quote encountered"));
        }
        unquote_delimited(literal)
            .map_err(|error| self.error(token.at, format!("unquoting failed: {error}")))
    }
}

/// Which quotes may delimit a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Double,
    /// Also `/` and `|`, so that a regular expression reads well.
    Any,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &[u8]) -> Result<Vec<Selector>, ParseError> {
        super::parse(input, &mut 10)
    }

    fn error(input: &[u8]) -> String {
        parse(input).expect_err("a parse error").to_string()
    }

    #[test]
    fn errors_read_as_containerds() {
        for (input, expected) in [
            ("name=alpine", r#"[name >|=|< alpine]: unsupported operator "=""#),
            ("name==", "[name==]: expected value or quoted"),
            ("name~=.*", "[name~= >|.|< *]: expected value or quoted"),
            ("a-b", r#"[a >|-|< b]: expected an operator ("=="|"!="|"~=")"#),
            ("a==b c", "[a==b >| |< c]: unexpected input:  "),
            ("a==b,", "[a==b,]: expected field or quoted"),
            ("a==/b/", "[a== >|/|< b/]: invalid quote encountered"),
            (r#"|a|"#, "[ >|||< a|]: invalid quote encountered"),
            (r#"a==" "b"#, r#"[a==" " >|b|< ]: unexpected input: b"#),
            (r#"a=="\400""#, r#"[a== >|"|< \400"]: unquoting failed: quote syntax error"#),
            ("a\0", "[a >|\0|< ]: unexpected null"),
            ("a==b\u{a0}c", "[a==b >|\u{fffd}|< \u{fffd}c]: unexpected input: \u{a0}"),
        ] {
            assert_eq!(error(input.as_bytes()), format!("filters: parse error: {expected}"));
        }
    }

    #[test]
    fn an_illegal_rune_is_unexpected_input_when_only_peeked() {
        let expected = "filters: parse error: [a==b >|\u{fffd}|< ]: unexpected input: \u{fffd}";
        assert_eq!(error(b"a==b\xff"), expected);
        let expected = "filters: parse error: [a >|\u{fffd}|< ]: rune error";
        assert_eq!(error(b"a\xff"), expected);
    }

    #[test]
    fn white_space_goes_before_tokens_but_not_after_a_selector() {
        let spaced = parse(b"\t a . b ==  c").expect_err("a space before the dot");
        assert!(spaced.to_string().contains("expected an operator"));
        assert_eq!(parse(b" a.  b ==\n c"), parse(b"a.b==c"));
        assert_eq!(parse(b"a==b,  c"), parse(b"a==b,c"));
        assert!(parse(b"a ").is_err());
    }
}

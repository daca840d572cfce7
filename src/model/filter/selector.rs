//! Selectors: tests of one field. A filter consists of selectors.

use std::fmt;

use go_compat::charset::is_print;
use go_compat::quote::quote;
use go_compat::regexp::{self, Compiled, RegexpError};
use go_compat::text::{first_rune, lossy};

use super::fields::Fields;
use super::scanner;
use crate::log_throttle::throttled_log;

/// A test of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub(super) path: Vec<Vec<u8>>,
    pub(super) operator: Operator,
}

/// Condition on a field. Except for [`Operator::Present`], an absent field counts as empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The object has the field.
    Present,
    /// `==`: the object has the field and its value is this.
    Equal(Vec<u8>),
    /// `!=`: the value is not this. An absent field matches `!=x`, not `!=""`.
    NotEqual(Vec<u8>),
    /// `~=`: the regular expression is found in the value.
    Matches(Pattern),
}

impl Selector {
    /// Path of the field; it has at least one name.
    pub fn path(&self) -> &[Vec<u8>] {
        &self.path
    }

    /// Condition on the field.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    pub(super) fn memory(&self) -> usize {
        let path = self.path.iter().map(|name| name.len() + size_of::<Vec<u8>>());
        let value = match &self.operator {
            Operator::Present => 0,
            Operator::Equal(value) | Operator::NotEqual(value) => value.len(),
            Operator::Matches(pattern) => pattern.memory(),
        };
        size_of::<Self>() + path.sum::<usize>() + value
    }

    pub(super) fn try_matches<F: Fields + ?Sized, E>(
        &self,
        object: &F,
        step: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        step()?;
        let value = object.field(&self.path);
        Ok(match &self.operator {
            Operator::Present => value.is_some(),
            Operator::Equal(wanted) => value == Some(wanted.as_slice()),
            Operator::NotEqual(unwanted) => value.unwrap_or_default() != unwanted.as_slice(),
            Operator::Matches(pattern) => {
                return pattern.try_find(value.unwrap_or_default(), step);
            }
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.path.iter().enumerate() {
            let separator = if index > 0 { "." } else { "" };
            write!(f, "{separator}{}", Literal(field))?;
        }
        match &self.operator {
            Operator::Present => Ok(()),
            Operator::Equal(value) => write!(f, "=={}", Literal(value)),
            Operator::NotEqual(value) => write!(f, "!={}", Literal(value)),
            Operator::Matches(pattern) => write!(f, "~={}", Literal(&pattern.source)),
        }
    }
}

/// A Go regular expression from a filter. One that does not compile matches nothing.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Vec<u8>,
    compiled: Option<Compiled>,
}

impl PartialEq for Pattern {
    /// Compares the sources only: equal sources compile to equal expressions.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Pattern {
    pub(super) fn new(source: Vec<u8>) -> Self {
        Pattern { source, compiled: None }
    }

    pub(super) fn compile(&mut self, size_limit: usize) -> Result<(), RegexpError> {
        self.compiled = Some(regexp::compile(&self.source, size_limit)?);
        Ok(())
    }

    /// Logs that the expression does not compile.
    pub(super) fn log(&self, error: &RegexpError) {
        let source = quote(&self.source);
        throttled_log!(Warn, "error compiling regexp {source}: {error}");
    }

    /// Source of the expression, unquoted.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Returns true if the expression matches anywhere in `value`.
    fn try_find<E>(
        &self,
        value: &[u8],
        step: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        match &self.compiled {
            Some(compiled) => compiled.matcher.try_match(&lossy(value), step),
            None => Ok(false),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let compiled = self.compiled.as_ref().map_or(0, |compiled| compiled.matcher.memory());
        self.source.len() + compiled
    }

    /// Returns the literal with which every matching value begins, empty if there is none; `None` if the
    /// expression matches no value because it does not compile.
    pub(crate) fn literal_prefix(&self) -> Option<&[u8]> {
        self.compiled.as_ref().map(|compiled| compiled.beginning.as_slice())
    }
}

/// Formats bytes so that the scanner reads them back: a plain word bare, anything else quoted. Go's own
/// quoting does not suit: it leaves U+FFFD unescaped, which the scanner refuses.
struct Literal<'b>(&'b [u8]);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |&byte: &u8| scanner::is_field(char::from(byte));
        if !self.0.is_empty() && self.0.iter().all(word) {
            return f.write_str(&lossy(self.0));
        }
        f.write_str("\"")?;
        let mut rest = self.0;
        while let Some((rune, width)) = first_rune(rest) {
            let (bytes, tail) = rest.split_at_checked(width).unwrap_or((rest, &[]));
            match rune {
                Some(rune @ ('"' | '\\')) => write!(f, "\\{rune}")?,
                Some(rune) if is_print(rune) && rune != char::REPLACEMENT_CHARACTER => {
                    write!(f, "{rune}")?;
                }
                _ => bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?,
            }
            rest = tail;
        }
        f.write_str("\"")
    }
}

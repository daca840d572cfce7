//! Parses character classes: `[…]`, `\d` and the other Perl classes, `\p{…}`.

use regex_syntax::hir::{Class, Hir};

use super::RegexpError;
use super::parse::Parser;
use super::property;
use crate::charset::{CharSet, fold, ranges};

/// Case folding a class takes time even if the result has few ranges. So a folded class counts as this
/// many ranges more.
const FOLD_COST: usize = 64;

const DIGIT: &[(char, char)] = &[('0', '9')];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// The POSIX classes, which are allowed inside brackets only: `[[:alpha:]]`.
const NAMED: &[(&str, &[(char, char)])] = &[
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\x7f')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", DIGIT),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", WORD),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

impl Parser<'_> {
    /// Reads a class in brackets. The caller has consumed the opening bracket.
    pub(super) fn brackets(&mut self) -> Result<Hir, RegexpError> {
        let negated = self.eat("^");
        let mut found: Vec<(char, char)> = Vec::new();
        loop {
            // An item comes before the test for `]`, so that `]` is a literal at the start: `[]a]`.
            let item = self.item()?;
            self.classes.count(&item)?;
            found.extend(item.ranges().iter().map(|range| (range.start(), range.end())));
            if self.eat("]") {
                break;
            }
        }
        let mut set = ranges(found);
        if self.flags.fold {
            fold(&mut set);
            self.classes.count(&set)?;
            self.classes.ranges += FOLD_COST;
        }
        if negated {
            set.negate();
        }
        Ok(Hir::class(Class::Unicode(set)))
    }

    /// Reads one item of a bracketed class: a named class, an escape, a rune or a range of runes.
    fn item(&mut self) -> Result<CharSet, RegexpError> {
        if let Some(set) = self.named_class()? {
            return Ok(set);
        }
        let escaped = self.eat("\\");
        if escaped && let Some(set) = self.class_escape()? {
            return Ok(set);
        }
        let first = if escaped { self.rune_escape()? } else { self.bare_rune()? };
        let mut last = first;
        // A hyphen directly before the closing bracket, or at the end of the pattern, is a literal.
        if self.rest().len() >= 2 && !self.rest().starts_with("-]") && self.eat("-") {
            last = if self.eat("\\") { self.rune_escape()? } else { self.bare_rune()? };
        }
        if last < first {
            return Err(RegexpError::InvalidCharRange);
        }
        Ok(without_surrogates(first, last))
    }

    fn bare_rune(&mut self) -> Result<u32, RegexpError> {
        self.next().map(u32::from).ok_or(RegexpError::MissingBracket)
    }

    /// Reads `[:alpha:]` or `[:^alpha:]`; `None` if the input continues with something else.
    fn named_class(&mut self) -> Result<Option<CharSet>, RegexpError> {
        let Some(text) = self.rest().strip_prefix("[:").filter(|_| !self.classes.no_more_names)
        else {
            return Ok(None);
        };
        let Some((name, rest)) = text.split_once(":]") else {
            self.classes.no_more_names = true;
            return Ok(None);
        };
        let (negated, name) = match name.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, name),
        };
        let class = NAMED.iter().find(|(known, _)| *known == name);
        let (_, class) = class.ok_or(RegexpError::InvalidCharRange)?;
        self.skip_to(rest);
        Ok(Some(self.ascii_class(class, negated)))
    }

    fn ascii_class(&self, class: &[(char, char)], negated: bool) -> CharSet {
        let mut set = ranges(class.iter().copied());
        if self.flags.fold {
            fold(&mut set);
        }
        if negated {
            set.negate();
        }
        set
    }

    /// Reads a class escape such as `\d` or `\p{…}`; `None` if the input continues with something else.
    /// The caller has consumed the backslash.
    pub(super) fn class_escape(&mut self) -> Result<Option<CharSet>, RegexpError> {
        let (class, negated) = match self.peek() {
            Some('d') => (DIGIT, false),
            Some('D') => (DIGIT, true),
            Some('s') => (SPACE, false),
            Some('S') => (SPACE, true),
            Some('w') => (WORD, false),
            Some('W') => (WORD, true),
            Some(kind @ ('p' | 'P')) => {
                self.next();
                return self.property(kind == 'P').map(Some);
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(self.ascii_class(class, negated)))
    }

    /// Reads the name of a Unicode property, and returns its set. A name is one letter, or any text in
    /// braces.
    fn property(&mut self, negated: bool) -> Result<CharSet, RegexpError> {
        let start = self.rest();
        let name = match self.next().ok_or(RegexpError::InvalidCharRange)? {
            '{' => self.until("}").ok_or(RegexpError::InvalidCharRange)?,
            letter => start.get(..letter.len_utf8()).unwrap_or_default(),
        };
        let (negated, name) = match name.strip_prefix('^') {
            Some(name) => (!negated, name),
            None => (negated, name),
        };
        let property = property::find(name).ok_or(RegexpError::InvalidCharRange)?;
        let mut set = self.classes.property(property, self.flags.fold);
        if negated {
            set.negate();
        }
        self.classes.count(&set)?;
        Ok(set)
    }
}

/// The set of all runes from `first` to `last`, both included, without surrogates. `first` and `last`
/// may be surrogates.
fn without_surrogates(first: u32, last: u32) -> CharSet {
    let first = char::from_u32(first).unwrap_or('\u{e000}');
    let last = char::from_u32(last).unwrap_or('\u{d7ff}');
    if first > last { CharSet::empty() } else { ranges([(first, last)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogates_are_left_out() {
        assert_eq!(without_surrogates(0xd800, 0xdfff), CharSet::empty());
        assert_eq!(without_surrogates(0xd7ff, 0xd800), ranges([('\u{d7ff}', '\u{d7ff}')]));
        assert_eq!(without_surrogates(0xdfff, 0xe001), ranges([('\u{e000}', '\u{e001}')]));
        assert_eq!(without_surrogates(0x61, 0x62), ranges([('a', 'b')]));
    }
}

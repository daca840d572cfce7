//! Sets of code points, equal to those of Go's Unicode tables.
//!
//! Go 1.26 has Unicode 15.0, and `regex-syntax` has a later version. So every set
//! is restricted to the code points that were assigned in 15.0 (the `Age`
//! property). The rest agrees: the category and the script of a code point hardly
//! ever change once assigned. `UNFOLDED` lists the few case pairs that later
//! versions added between old code points.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

/// The Unicode version of Go 1.26's tables, as an `Age` property value.
const VERSION: &str = "15.0";

/// The code points of Unicode 15.0 that got their first simple case folding in a
/// later version. Go does not fold them.
const UNFOLDED: &str = "\u{19b}\u{264}\u{390}\u{3b0}\u{1fd3}\u{1fe3}\u{fb05}\u{fb06}";

/// A set of code points without surrogates, which no text contains.
pub type CharSet = ClassUnicode;

/// Whether Go's `unicode.IsGraphic` holds: letters, marks, numbers,
/// punctuation, symbols and spaces (category Zs).
pub fn is_graphic(rune: char) -> bool {
    static GRAPHIC: LazyLock<CharSet> = LazyLock::new(|| {
        let mut set = parse(r"[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]");
        set.intersect(&AGED);
        set
    });
    if rune.is_ascii() {
        return matches!(rune, ' '..='~');
    }
    contains(&GRAPHIC, rune)
}

/// Whether Go's `unicode.IsPrint` and `strconv.IsPrint` hold: graphic, but the
/// only space is U+0020.
pub fn is_print(rune: char) -> bool {
    rune == ' ' || is_graphic(rune) && !is_space(rune)
}

/// Whether Go's `unicode.IsSpace` holds: the property White_Space, which Rust's
/// standard library has as well.
pub fn is_space(rune: char) -> bool {
    rune.is_whitespace()
}

/// The general category of this name (`Lu`, or `L` for all letters).
pub fn category(name: &str) -> CharSet {
    let mut set = parse(&format!(r"\p{{gc={name}}}"));
    match name {
        // In Unicode 15.0, code points that were assigned later are unassigned.
        "C" | "Cn" => set.union(&later()),
        _ => set.intersect(&AGED),
    }
    set
}

/// The script of this name (`Greek`).
pub fn script(name: &str) -> CharSet {
    let mut set = parse(&format!(r"\p{{sc={name}}}"));
    set.intersect(&AGED);
    set
}

/// Adds to `set` all code points that Go's `unicode.SimpleFold` reaches from it.
pub fn fold(set: &mut CharSet) {
    // Folding never leads from a code point that Go folds to one that it does not
    // fold. So the set is split, one part is folded, and both are joined again.
    static FIXED: LazyLock<CharSet> = LazyLock::new(|| {
        let mut set = later();
        set.union(&ranges(UNFOLDED.chars().map(|rune| (rune, rune))));
        set
    });
    let mut fixed = FIXED.clone();
    fixed.intersect(set);
    set.difference(&fixed);
    // The only error is a build without folding tables. Then no code point folds.
    let _ = set.try_case_fold_simple();
    set.union(&fixed);
}

/// The set of these ranges, both ends included.
pub fn ranges(ranges: impl IntoIterator<Item = (char, char)>) -> CharSet {
    ClassUnicode::new(ranges.into_iter().map(|(first, last)| ClassUnicodeRange::new(first, last)))
}

/// All code points that were assigned or reserved in [`VERSION`].
static AGED: LazyLock<CharSet> = LazyLock::new(|| parse(&format!(r"\p{{Age={VERSION}}}")));

fn later() -> CharSet {
    let mut set = AGED.clone();
    set.negate();
    set
}

/// The set of a class of `regex-syntax`. The library knows all classes of this
/// module; the tests check this.
fn parse(class: &str) -> CharSet {
    match regex_syntax::parse(class).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(set))) => set,
        Ok(HirKind::Literal(literal)) => {
            ranges(String::from_utf8_lossy(&literal.0).chars().map(|rune| (rune, rune)))
        }
        _ => ClassUnicode::empty(),
    }
}

fn contains(set: &CharSet, rune: char) -> bool {
    let ranges = set.ranges();
    let next = ranges.partition_point(|range| range.end() < rune);
    ranges.get(next).is_some_and(|range| range.start() <= rune)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(rune: char) -> String {
        let mut set = ranges([(rune, rune)]);
        fold(&mut set);
        set.iter().flat_map(|range| range.start()..=range.end()).collect()
    }

    #[test]
    fn folding_is_that_of_unicode_15() {
        assert_eq!(folded('k'), "Kk\u{212a}");
        assert_eq!(folded('ς'), "Σςσ");
        assert_eq!(folded('İ'), "İ");
        // Folded since 15.1 and 16.0.
        assert_eq!(folded('\u{fb05}'), "\u{fb05}");
        assert_eq!(folded('\u{19b}'), "\u{19b}");
        assert_eq!(folded('\u{10d50}'), "\u{10d50}");
    }

    /// [`fold`] depends on this.
    #[test]
    fn case_folding_does_not_reach_characters_that_go_does_not_fold() {
        let mut fixed = later();
        fixed.union(&ranges(UNFOLDED.chars().map(|rune| (rune, rune))));
        let mut others = fixed.clone();
        others.negate();
        others.case_fold_simple();
        others.intersect(&fixed);
        assert!(others.ranges().is_empty(), "{others:?}");
    }

    #[test]
    fn visible_and_invisible() {
        for (rune, graphic, print) in [
            (' ', true, true),
            ('~', true, true),
            ('\x7f', false, false),
            ('é', true, true),
            ('\u{a0}', true, false),
            ('\u{ad}', false, false),
            ('\u{200b}', false, false),
            ('\u{2028}', false, false),
            ('\u{301}', true, true),
            ('\u{fffd}', true, true),
            ('\u{e000}', false, false),
            ('\u{11f00}', true, true),
            ('\u{105c0}', false, false),
        ] {
            assert_eq!((is_graphic(rune), is_print(rune)), (graphic, print), "{rune:?}");
        }
    }
}

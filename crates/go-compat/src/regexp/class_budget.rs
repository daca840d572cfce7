//! The state that the classes of one pattern share: a bound for their ranges, and the properties looked up.

use std::collections::HashMap;

use regex_syntax::hir::{Class, Hir};

use super::RegexpError;
use super::property::Property;
use crate::charset::{CharSet, fold, ranges};

/// How many ranges all classes of a pattern may have together. Go allows 128
/// times as many, which would take gigabytes to compile here.
const MAX_RANGES: usize = 128 << 10;

/// The state that the classes of one pattern share.
#[derive(Default)]
pub(super) struct Classes {
    pub(super) ranges: usize,
    /// Whether the rest of the pattern is known to have no `:]`. Repeated searches for
    /// it would take a time that grows with the square of the pattern.
    pub(super) no_more_names: bool,
    /// The look-up of a property is expensive, and a pattern may have many.
    properties: HashMap<(Property, bool), CharSet>,
}

impl Classes {
    pub(super) fn count(&mut self, set: &CharSet) -> Result<(), RegexpError> {
        self.ranges += set.ranges().len();
        if self.ranges > MAX_RANGES { Err(RegexpError::TooLarge) } else { Ok(()) }
    }

    /// A rune and all that it folds to.
    pub(super) fn folded(&mut self, rune: char) -> Result<Hir, RegexpError> {
        let mut set = ranges([(rune, rune)]);
        fold(&mut set);
        self.count(&set)?;
        Ok(Hir::class(Class::Unicode(set)))
    }

    pub(super) fn property(&mut self, property: Property, folded: bool) -> CharSet {
        let set = self.properties.entry((property, folded)).or_insert_with(|| {
            let mut set = property.set();
            if folded {
                fold(&mut set);
            }
            set
        });
        set.clone()
    }
}

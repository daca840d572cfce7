//! The names that `\p{…}` knows, in Go 1.26.

use crate::charset::{CharSet, category, ranges, script};

/// A set of runes with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Property {
    Any,
    Ascii,
    Assigned,
    Category(&'static str),
    Script(&'static str),
}

impl Property {
    /// The runes that have the property.
    pub(super) fn set(self) -> CharSet {
        match self {
            Property::Any => ranges([('\0', char::MAX)]),
            Property::Ascii => ranges([('\0', '\x7f')]),
            Property::Assigned => {
                let mut set = category("Cn");
                set.negate();
                set
            }
            Property::Category(name) => category(name),
            Property::Script(name) => script(name),
        }
    }
}

/// Finds a property by name. Case, spaces, hyphens and underscores do not matter.
///
/// Go strips them from the name it looks for, but not from the names of its
/// scripts. So the scripts missing here, such as Old_Italic and SignWriting,
/// are not found by any name.
pub(super) fn find(name: &str) -> Option<Property> {
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, ' ' | '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match name.as_str() {
        "any" => return Some(Property::Any),
        "ascii" => return Some(Property::Ascii),
        "assigned" => return Some(Property::Assigned),
        _ => {}
    }
    let category = CATEGORIES.iter().find(|(short, aliases)| {
        short.eq_ignore_ascii_case(&name) || aliases.contains(&name.as_str())
    });
    if let Some((short, _)) = category {
        return Some(Property::Category(short));
    }
    let script = SCRIPTS.iter().find(|script| script.eq_ignore_ascii_case(&name));
    script.map(|script| Property::Script(script))
}

/// General categories by their short name, and their other names.
const CATEGORIES: &[(&str, &[&str])] = &[
    ("C", &["other"]),
    ("Cc", &["control", "cntrl"]),
    ("Cf", &["format"]),
    ("Cn", &["unassigned"]),
    ("Co", &["privateuse"]),
    ("Cs", &["surrogate"]),
    ("L", &["letter"]),
    ("LC", &["casedletter"]),
    ("Ll", &["lowercaseletter"]),
    ("Lm", &["modifierletter"]),
    ("Lo", &["otherletter"]),
    ("Lt", &["titlecaseletter"]),
    ("Lu", &["uppercaseletter"]),
    ("M", &["mark", "combiningmark"]),
    ("Mc", &["spacingmark"]),
    ("Me", &["enclosingmark"]),
    ("Mn", &["nonspacingmark"]),
    ("N", &["number"]),
    ("Nd", &["decimalnumber", "digit"]),
    ("Nl", &["letternumber"]),
    ("No", &["othernumber"]),
    ("P", &["punctuation", "punct"]),
    ("Pc", &["connectorpunctuation"]),
    ("Pd", &["dashpunctuation"]),
    ("Pe", &["closepunctuation"]),
    ("Pf", &["finalpunctuation"]),
    ("Pi", &["initialpunctuation"]),
    ("Po", &["otherpunctuation"]),
    ("Ps", &["openpunctuation"]),
    ("S", &["symbol"]),
    ("Sc", &["currencysymbol"]),
    ("Sk", &["modifiersymbol"]),
    ("Sm", &["mathsymbol"]),
    ("So", &["othersymbol"]),
    ("Z", &["separator"]),
    ("Zl", &["lineseparator"]),
    ("Zp", &["paragraphseparator"]),
    ("Zs", &["spaceseparator"]),
];

/// The scripts of Unicode 15.0 that have names of a single word.
const SCRIPTS: &[&str] = &[
    "Adlam",
    "Ahom",
    "Arabic",
    "Armenian",
    "Avestan",
    "Balinese",
    "Bamum",
    "Batak",
    "Bengali",
    "Bhaiksuki",
    "Bopomofo",
    "Brahmi",
    "Braille",
    "Buginese",
    "Buhid",
    "Carian",
    "Chakma",
    "Cham",
    "Cherokee",
    "Chorasmian",
    "Common",
    "Coptic",
    "Cuneiform",
    "Cypriot",
    "Cyrillic",
    "Deseret",
    "Devanagari",
    "Dogra",
    "Duployan",
    "Elbasan",
    "Elymaic",
    "Ethiopic",
    "Georgian",
    "Glagolitic",
    "Gothic",
    "Grantha",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hanunoo",
    "Hatran",
    "Hebrew",
    "Hiragana",
    "Inherited",
    "Javanese",
    "Kaithi",
    "Kannada",
    "Katakana",
    "Kawi",
    "Kharoshthi",
    "Khmer",
    "Khojki",
    "Khudawadi",
    "Lao",
    "Latin",
    "Lepcha",
    "Limbu",
    "Lisu",
    "Lycian",
    "Lydian",
    "Mahajani",
    "Makasar",
    "Malayalam",
    "Mandaic",
    "Manichaean",
    "Marchen",
    "Medefaidrin",
    "Miao",
    "Modi",
    "Mongolian",
    "Mro",
    "Multani",
    "Myanmar",
    "Nabataean",
    "Nandinagari",
    "Newa",
    "Nko",
    "Nushu",
    "Ogham",
    "Oriya",
    "Osage",
    "Osmanya",
    "Palmyrene",
    "Phoenician",
    "Rejang",
    "Runic",
    "Samaritan",
    "Saurashtra",
    "Sharada",
    "Shavian",
    "Siddham",
    "Sinhala",
    "Sogdian",
    "Soyombo",
    "Sundanese",
    "Syriac",
    "Tagalog",
    "Tagbanwa",
    "Takri",
    "Tamil",
    "Tangsa",
    "Tangut",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
    "Tifinagh",
    "Tirhuta",
    "Toto",
    "Ugaritic",
    "Vai",
    "Vithkuqi",
    "Wancho",
    "Yezidi",
    "Yi",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_runes() {
        for (name, _) in CATEGORIES {
            let empty = Property::Category(name).set().ranges().is_empty();
            assert_eq!(empty, *name == "Cs", "{name}: only surrogates are in no text");
        }
        for name in SCRIPTS {
            assert!(!Property::Script(name).set().ranges().is_empty(), "{name}");
        }
    }

    #[test]
    fn names_are_found_loosely_but_not_by_abbreviation() {
        assert_eq!(find("greek"), Some(Property::Script("Greek")));
        assert_eq!(find("G-R_E eK"), Some(Property::Script("Greek")));
        assert_eq!(find("Uppercase_Letter"), Some(Property::Category("Lu")));
        assert_eq!(find("lu"), Some(Property::Category("Lu")));
        assert_eq!(find("LC"), Some(Property::Category("LC")));
        assert_eq!(find("Any"), Some(Property::Any));
        for name in ["", "Grek", "Old_Italic", "SignWriting", "Emoji", "Alphabetic", "Lx", "é"] {
            assert_eq!(find(name), None, "{name}");
        }
    }
}

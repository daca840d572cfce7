//! Random names, keys, values and digests. Characters are such that every Go since 1.19 classes
//! them alike.

use std::collections::BTreeMap;

use crate::support::random::{Draw, Rng};

/// Characters that some rule treats apart.
const ODD: [&str; 34] = [
    "a", "b", "Z", "0", ".", ",", "/", "|", "\\", "\"", "'", "`", "=", "!", "~", " ", "\t", "\n",
    "\r", "\0", "\u{1}", "\u{7f}", "\u{80}", "\u{a0}", "\u{ad}", "é", "ß", "\u{301}", "\u{200b}",
    "\u{2028}", "日", "\u{feff}", "\u{fffd}", "😀",
];

/// Keys of labels and of annotations.
pub const KEYS: &[&str] = &["a", "b", "a.b", "x.y.z", "é", "", "a b", "\"", "label/é", "."];

/// Values of labels and of annotations.
pub const VALUES: &[&str] = &["1", "2", "v", "é", "a,b", "x==y"];

pub fn odd(r: &mut Rng, most: usize) -> String {
    (0..r.usize(0..=most)).map(|_| r.one(&ODD)).collect()
}

pub fn name(r: &mut Rng) -> String {
    match r.usize(..20) {
        0..8 => r
            .one(&[
                "a",
                "b",
                "docker.io/library/alpine:3.19",
                "docker.io/library/alpine:3.2",
                "docker.io/library/alpine",
                "ghcr.io/x/y@sha256:abc",
                "a\0b",
                "\u{10ffff}",
                "\u{e000}",
            ])
            .into(),
        8..13 => odd(r, 6),
        // Where our store's keys of names are cut, also inside a character.
        13..18 => {
            let head = "p".repeat(r.usize(382..=386));
            head + r.one(&["", "a", "b", "é", "éa", "日", "日b", "\u{10ffff}", "\0", "pp"])
        }
        18 => "n".repeat(r.one(&[511, 512, 1982, 4096, 5000])) + r.one(&["", "é"]),
        _ => {
            // Rarely, for they make everything slow.
            let length = if r.chance(10) { r.usize(32_767..=32_769) } else { 600 };
            "é".repeat(length / 2) + &"z".repeat(length % 2)
        }
    }
}

/// `length` bytes or a little more, some of several bytes.
pub fn long_key(r: &mut Rng, length: usize) -> String {
    let piece = r.one(&["k", "é", "日", "😀"]);
    let mut key = "k".repeat(r.usize(..4));
    while key.len() < length {
        key += piece;
    }
    key
}

/// Labels, or annotations, which have no bound.
pub fn map(r: &mut Rng, bounded: bool) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for _ in 0..r.one(&[0, 0, 1, 1, 2, 3]) {
        let key = match r.usize(..30) {
            0 => String::new(),
            1..4 => odd(r, 4),
            n if n % 2 == 0 => "a".into(),
            _ => r.one(&KEYS[..5]).to_owned(),
        };
        let value = match r.usize(..10) {
            0 => String::new(),
            1 => odd(r, 4),
            _ => r.one(VALUES).to_owned(),
        };
        map.insert(key, value);
    }
    // One at most: of several containerd names any.
    if r.chance(8) {
        let size =
            if bounded || r.chance(80) { r.usize(4095..=4097) } else { r.usize(32_766..=32_769) };
        let length = r.one(&[1, 63, 64, 65, 66, 67, 70, size]).min(size - 4);
        let key = long_key(r, length);
        let fill = size - key.len();
        map.insert(key, "v".repeat(fill));
    }
    map
}

pub fn digest(r: &mut Rng) -> String {
    if r.chance(92) {
        return match r.usize(..6) {
            0 => format!("sha512:{}", "c".repeat(128)),
            1 => format!("sha384:{}", "d".repeat(96)),
            n => format!("sha256:{}", ["a", "b", "0", "f"][n - 2].repeat(64)),
        };
    }
    match r.usize(..8) {
        0 => String::new(),
        1 => odd(r, 4),
        2 => {
            let odd = odd(r, 2);
            r.one(&["md5", "sha256", "sha1", "SHA256", "a+b", "a..b", "a-"]).to_owned() + ":" + &odd
        }
        3 => format!("{}:{}", r.one(&["md5", "blake3", "sha1", "a.b-c_d+e"]), "aZ0=_-"),
        4..7 => {
            let digit = r.one(&["a", "A", "g", "/"]);
            let (algorithm, length) = r.one(&[("sha256", 64), ("sha384", 96), ("sha512", 128)]);
            let length = if r.chance(60) { length } else { r.one(&[length - 1, length + 1, 64]) };
            format!("{algorithm}:{}", digit.repeat(length))
        }
        _ => format!("{}:{}", r.one(&["sha256", "Sha256", "sha256 "]), "ab".repeat(32)),
    }
}

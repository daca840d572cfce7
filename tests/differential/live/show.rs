//! Shows a request or a record as one line. Long texts are shortened.

use std::collections::BTreeMap;

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::Image;
use protobuf::well_known_types::timestamp::Timestamp;

pub fn short(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.len() <= 2 * SHOWN {
        return format!("{text:?}");
    }
    let (mut head, mut tail) = (SHOWN / 2, text.len() - SHOWN / 2);
    while !text.is_char_boundary(head) {
        head += 1;
    }
    while !text.is_char_boundary(tail) {
        tail -= 1;
    }
    format!("{:?}…{:?} ({} bytes)", &text[..head], &text[tail..], text.len())
}

pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|t| short(t)).collect::<Vec<_>>().join(", "))
}

pub fn map(map: &BTreeMap<String, String>) -> String {
    let entries: Vec<_> = map.iter().map(|(k, v)| format!("{}: {}", short(k), short(v))).collect();
    format!("{{{}}}", entries.join(", "))
}

pub fn target(target: &Descriptor) -> String {
    let mut shown =
        format!("{} {} {}", short(&target.media_type), short(&target.digest), target.size);
    if !target.annotations.is_empty() {
        shown += &format!(" annotations {}", map(&target.annotations));
    }
    shown
}

pub fn image(image: &Image) -> String {
    let mut shown = format!("{} → {}", short(&image.name), target(&image.target));
    if !image.labels.is_empty() {
        shown += &format!(" labels {}", map(&image.labels));
    }
    shown
}

pub fn epoch(time: &protobuf::MessageField<Timestamp>) -> String {
    time.as_ref().map_or_else(String::new, |t| format!(" epoch ({}, {})", t.seconds, t.nanos))
}

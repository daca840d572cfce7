//! Random sequences of requests, aimed at the rules of Images: values at the edges of bounds, and
//! few enough names and keys that steps meet.

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::well_known_types::timestamp::Timestamp;

use super::filters;
use super::step::{Request, Space, Step};
use crate::live::text::{self, KEYS};
use crate::support::random::{Draw, Rng};

/// The steps of one sequence.
pub fn sequence(seed: u64) -> Vec<Step> {
    let mut r = Rng::with_seed(seed);
    let names: Vec<String> = (0..r.one(&[1, 1, 2, 3, 5])).map(|_| text::name(&mut r)).collect();
    let mut generator = Generator { r, names };
    // Something must be there for the others to meet.
    let mut steps: Vec<Step> = (0..generator.r.usize(0..=4)).map(|_| generator.first()).collect();
    steps.extend((0..generator.r.usize(4..=24)).map(|_| generator.step()));
    steps
}

struct Generator {
    r: Rng,
    names: Vec<String>,
}

impl Generator {
    fn first(&mut self) -> Step {
        Step { space: Space::Own(0), request: Request::Create(self.create()) }
    }

    fn step(&mut self) -> Step {
        let request = match self.r.usize(..100) {
            0..20 => Request::Create(self.create()),
            20..60 => Request::Update(self.update()),
            60..67 => Request::Delete(self.delete()),
            67..77 => Request::Get(GetImageRequest { name: self.name(), ..Default::default() }),
            _ => Request::List(ListImagesRequest { filters: self.filters(), ..Default::default() }),
        };
        Step { space: space(&mut self.r), request }
    }

    fn create(&mut self) -> CreateImageRequest {
        CreateImageRequest {
            image: MessageField::some(self.image()),
            source_date_epoch: epoch(&mut self.r),
            ..Default::default()
        }
    }

    fn update(&mut self) -> UpdateImageRequest {
        let mask = match self.r.usize(..10) {
            0..3 => None,
            3 => Some(Vec::new()),
            4 => Some((0..3).map(|_| unknown_path(&mut self.r)).collect()),
            _ => Some((0..self.r.usize(1..=5)).map(|_| path(&mut self.r)).collect()),
        };
        let mask = mask.map(|paths| FieldMask { paths, ..Default::default() });
        UpdateImageRequest {
            image: MessageField::some(self.image()),
            update_mask: mask.into(),
            source_date_epoch: epoch(&mut self.r),
            ..Default::default()
        }
    }

    fn delete(&mut self) -> DeleteImageRequest {
        let target = match self.r.usize(..10) {
            0..5 => None,
            5 => Some(Descriptor::default()),
            _ => Some(Descriptor { digest: text::digest(&mut self.r), ..Default::default() }),
        };
        DeleteImageRequest {
            name: self.name(),
            // Waits for a run of the garbage collector.
            sync: self.r.chance(10),
            target: target.into(),
            ..Default::default()
        }
    }

    fn name(&mut self) -> String {
        if self.r.chance(90) { self.r.one(&self.names) } else { text::name(&mut self.r) }
    }

    fn image(&mut self) -> Image {
        let r = &mut self.r;
        let size = if r.chance(93) { r.one(&[1, 7, i64::MAX]) } else { r.one(&[0, -1, i64::MIN]) };
        let media_type = if r.chance(95) {
            r.one(&["application/vnd.oci.image.manifest.v1+json", "m", "é \"\n", "a,b==c"])
        } else {
            ""
        };
        let target = if r.chance(99) {
            Descriptor {
                media_type: media_type.into(),
                digest: text::digest(r),
                size,
                annotations: text::map(r, false),
                ..Default::default()
            }
        } else {
            Descriptor::default()
        };
        let labels = text::map(r, true);
        // A client's own times are ignored.
        let created_at = if r.chance(5) { epoch(r) } else { MessageField::none() };
        Image {
            name: self.name(),
            labels,
            target: MessageField::some(target),
            created_at,
            ..Default::default()
        }
    }

    fn filters(&mut self) -> Vec<String> {
        let count = self.r.one(&[0, 1, 1, 1, 1, 2, 2, 3]);
        (0..count).map(|_| filters::filter(&mut self.r, &self.names)).collect()
    }
}

fn space(r: &mut Rng) -> Space {
    match r.usize(..100) {
        0..88 => Space::Own(0),
        88..93 => Space::Own(1),
        93..96 => Space::Longest,
        _ => {
            let invalid = ["-a", "a-", "a..b", "a/b", "a b", "A_B.c-", "é", "a\u{fffd}", "\"", "/"];
            Space::Header(match r.usize(..4) {
                0 => None,
                1 => Some(String::new()),
                2 => Some("x".repeat(r.usize(77..=79))),
                _ => Some(r.one(&invalid).to_owned()),
            })
        }
    }
}

fn path(r: &mut Rng) -> String {
    match r.usize(..20) {
        0..3 => "labels".into(),
        3..6 => "labels.a".into(),
        6..8 => format!("labels.{}", r.one(KEYS)),
        8..10 => "annotations".into(),
        10..13 => "annotations.a".into(),
        13..15 => format!("annotations.{}", r.one(KEYS)),
        15..18 => "target".into(),
        18 => {
            // The one of a map's long entry, which no pool holds.
            format!("{}.{}", r.one(&["labels", "annotations"]), text::long_key(r, 100))
        }
        _ => unknown_path(r),
    }
}

/// What no mask may name: only here the order of a mask is seen.
fn unknown_path(r: &mut Rng) -> String {
    r.one(&[
        "name",
        "",
        ".",
        "labels.",
        "annotations.",
        "target.digest",
        "target.annotations",
        "created_at",
        "updated_at",
        "Labels",
        "labels ",
        " target",
        "label",
        "é\"\0",
    ])
    .into()
}

fn epoch(r: &mut Rng) -> MessageField<Timestamp> {
    if r.chance(75) {
        return MessageField::none();
    }
    let seconds = r.one(&[0, 1, -1, 1_700_000_000, 253_402_300_799, -62_135_596_800]);
    let nanos = r.one(&[0, 1, 999_999_999, 1_000_000_000, -1, i32::MAX, i32::MIN]);
    let time = Timestamp { seconds, nanos, ..Default::default() };
    if r.chance(20) { MessageField::some(Timestamp::default()) } else { MessageField::some(time) }
}

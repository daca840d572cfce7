//! Reader the bolt files of real containerds, as they are and damaged in every way that can be
//! tried: an error names what is wrong, nothing panics, and a page that lost entries says so.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read};

use bbolt_read::ReadAt;
use fastrand::Rng;
use lmdb_images::admin::import::containerd_schema::{FileItem, Notes, read, survey};
use lmdb_images::model::image::Image;

const FILES: [(&str, &[u8]); 3] = [
    ("1.6.20", include_bytes!("../data/containerd-1.6.20.meta.db.gz")),
    ("1.7.24", include_bytes!("../data/containerd-1.7.24.meta.db.gz")),
    ("2.1.9", include_bytes!("../data/containerd-2.1.9.meta.db.gz")),
];

fn file(index: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(FILES[index].1).read_to_end(&mut bytes).unwrap();
    bytes
}

fn all(bytes: &[u8]) -> (Vec<FileItem>, Notes) {
    let mut found = Vec::new();
    let notes = read(bytes, |each| {
        found.push(each);
        Ok(())
    });
    (found, notes.unwrap())
}

#[test]
fn files_of_real_containerds_are_read_whole() {
    for (index, (version, _)) in FILES.iter().enumerate() {
        let (found, notes) = all(&file(index));
        assert_eq!(notes, Notes::default(), "{version}");
        let namespaces: Vec<_> = found
            .iter()
            .filter_map(|found| match found {
                FileItem::Namespace(_, record) => {
                    Some((record.name.as_str(), record.labels.clone().into_iter().collect()))
                }
                _ => None,
            })
            .collect();
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected: Vec<(&str, Vec<_>)> = vec![
            ("labelled", vec![label("site", "b"), label("team", "a")]),
            ("many", vec![]),
            ("one", vec![]),
        ];
        assert_eq!(namespaces, expected, "{version}");
        let images: Vec<&Image> = found
            .iter()
            .filter_map(|found| match found {
                FileItem::Image(_, image) => Some(image),
                _ => None,
            })
            .collect();
        assert_eq!(images.len(), 22, "{version}");
        assert!(images[..20].is_sorted_by_key(|image| image.name.as_str()));
        let hello = images.iter().find(|image| image.name == "hello").unwrap();
        assert_eq!(hello.target.size, i64::MAX);
        assert_eq!(hello.target.media_type, "application/x");
        assert_eq!(
            hello.labels.clone().into_iter().collect::<Vec<_>>(),
            vec![label("a", "b c"), label("stage", "test")]
        );
        let (created, updated) = (hello.created_at.seconds, hello.updated_at.seconds);
        assert!(created > 1_790_000_000 && (0..60).contains(&(updated - created)), "{created}");
        let filler = images.iter().find(|image| image.name == "filler/000000").unwrap();
        assert_eq!(filler.target.annotations["filler"], "x".repeat(2500));
    }
}

/// Notes which pages are read.
struct Watched<'b>(&'b [u8], RefCell<BTreeSet<u64>>);

impl ReadAt for Watched<'_> {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at + buffer.len() as u64;
        self.1.borrow_mut().extend(at / 4096..end.div_ceil(4096));
        self.0.read_at(buffer, at)
    }
}

/// What is reported of a damaged file: an error, or records and what is missing. Without a word about
/// damage there must be as many as there were.
fn damaged(bytes: &[u8], images: u64, what: &str) -> Finding {
    let Ok(survey) = survey(bytes) else { return Finding::FileRefused };
    if survey.unreadable.is_empty() && survey.notes == Notes::default() {
        assert_eq!((survey.namespaces, survey.images), (3, images), "{what}: lost without a word");
        return Finding::None;
    }
    Finding::Reported
}

#[derive(PartialEq, Eq)]
enum Finding {
    FileRefused,
    Reported,
    None,
}

#[test]
fn every_byte_that_matters_may_be_wrong() {
    let mut bytes = file(0);
    let watched = Watched(&bytes, RefCell::default());
    let images = survey(&watched).unwrap().images;
    // Every image has a page of its own; they are alike, and one does.
    let mut one_of_an_image = 0;
    let pages: Vec<usize> = watched
        .1
        .into_inner()
        .into_iter()
        .map(|page| usize::try_from(page).unwrap() * 4096)
        .filter(|at| {
            let of_an_image = bytes[*at..at + 4096].windows(9).any(|w| w == b"createdat");
            one_of_an_image += usize::from(of_an_image);
            !of_an_image || one_of_an_image <= 1
        })
        .collect();
    assert!((8..24).contains(&pages.len()), "{pages:?}");
    let mut random = Rng::with_seed(0x1_2345_6789);
    let (mut noticed, mut unnoticed) = (0, 0);
    // Numbers stand at the beginning of a page, and names and values, which are many, behind.
    let matter = |at: &usize| at % 4096 < 512 || at.is_multiple_of(5);
    for at in pages.into_iter().flat_map(|at| at..at + 4096).filter(matter) {
        let mask = [0xff, 1 << random.usize(..8)][random.usize(..2)];
        bytes[at] ^= mask;
        match damaged(&bytes, images, &format!("byte {at} with {mask:#x}")) {
            Finding::None => unnoticed += 1,
            _ => noticed += 1,
        }
        bytes[at] ^= mask;
    }
    // Most bytes are free space, or stand in a key or a value, for which bolt has no checksum.
    println!("{noticed} of {} changed bytes were noticed", noticed + unnoticed);
    assert!(noticed > 1_000, "{noticed} of {}", noticed + unnoticed);
}

#[test]
fn a_damaged_file_yields_no_wrong_record() {
    let rounds = std::env::var("LMDB_IMAGES_ROUNDS").map_or(1500, |n| n.parse().unwrap());
    let mut random = Rng::with_seed(0x2_3456_789a);
    for index in 0..FILES.len() {
        let whole = file(index);
        let watched = Watched(&whole, RefCell::default());
        survey(&watched).unwrap();
        let pages: Vec<_> = watched.1.into_inner().into_iter().collect();
        for _ in 0..rounds {
            let mut bytes = whole.clone();
            for _ in 0..=random.usize(..8) {
                let page = usize::try_from(pages[random.usize(..pages.len())]).unwrap() * 4096;
                // The beginning of a page is where the numbers are.
                let reach = if random.usize(..2) == 0 { 256 } else { 4096 };
                let at = page + random.usize(..reach);
                match random.usize(..5) {
                    0 => bytes[at] = random.usize(..256) as u8,
                    1 => bytes[at] ^= 1 << random.usize(..8),
                    2 => bytes[page..page + 4096].fill(0),
                    3 => {
                        let other = random.usize(..whole.len() / 4096) * 4096;
                        bytes.copy_within(other..other + 4096, page);
                    }
                    _ => bytes.truncate(at),
                }
                if bytes.len() < whole.len() {
                    break;
                }
            }
            let _ = survey(bytes.as_slice());
        }
    }
}

#[test]
fn a_page_that_names_itself_ends() {
    // Every branch's children are made the branch itself: each page is read once all the same.
    let mut bytes = file(0);
    let mut branches = 0;
    for page in 0..bytes.len() / 4096 {
        let at = page * 4096;
        if bytes[at + 8..at + 10] == [1, 0] {
            branches += 1;
            let count = usize::from(u16::from_le_bytes([bytes[at + 10], bytes[at + 11]]));
            for index in 0..count {
                let child = at + 16 + index * 16 + 8;
                bytes[child..child + 8].copy_from_slice(&(page as u64).to_le_bytes());
            }
        }
    }
    assert!(branches > 0);
    let found = survey(bytes.as_slice()).unwrap();
    assert!(
        found.unreadable.iter().all(|lost| lost.to_string().contains("used twice")),
        "{found:?}"
    );
    assert!(!found.unreadable.is_empty());
}

#[test]
fn recover_uses_and_reports_the_older_state_if_the_last_meta_page_is_damaged() {
    let mut bytes = file(0);
    let transaction = |bytes: &[u8], page: usize| bytes[page * 4096 + 64];
    let newer = usize::from(transaction(&bytes, 1) > transaction(&bytes, 0));
    bytes[newer * 4096 + 64] ^= 1;
    let found = survey(bytes.as_slice()).unwrap();
    let note = found.notes.other_meta.unwrap().to_string();
    assert_eq!(note, format!("page {newer}: the checksum of this meta page is wrong"));
    // The last change was of a label.
    assert_eq!(found.images, 22);
}

#[test]
fn a_file_that_is_no_bolt_file_is_an_error() {
    let refused = |bytes: &[u8]| survey(bytes).unwrap_err().to_string();
    assert_eq!(
        refused(&[0; 9000]),
        "page 0: this is no bolt file: the number that begins its first meta page is not bolt's"
    );
    assert!(refused(b"").starts_with("page 0: this meta page cannot be read"));
    let mut swapped = file(0);
    for page in [0, 4096] {
        swapped[page + 16..page + 20].reverse();
    }
    assert!(refused(&swapped).contains("big-endian"));
}

//! Filters give the same answer however it is found: from the index, from a range of names, or by
//! decoding and trying every image.

use go_compat::quote::quote;
use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{Image, ListImagesResponse};
use lmdb_images::limits::memory::ReplyBuffer;
use lmdb_images::model::Namespace;
use lmdb_images::model::filter::Filter;
use lmdb_images::model::image::plan::QueryPlan;
use lmdb_images::service::cancel::Cancel;
use lmdb_images::service::images::query::{Query, list, list_if_few};
use lmdb_images::store::{Kind, Records, Store, Transaction};
use proptest::prelude::*;
use proptest::sample::select;
use protobuf::{Message, MessageField};

/// A name of many that begin alike, among them long ones, which are cut and hashed in keys.
fn name() -> impl Strategy<Value = String> {
    let head = select(vec!["", "a", "ab", "a.b/", "é", "\0"]);
    let tail = prop_oneof![
        4 => "[abc/.é\n]{0,3}",
        1 => ("x{380,390}", "[abé]{0,2}").prop_map(|(long, end)| long + &end),
    ];
    (head, tail)
        .prop_map(|(head, tail)| format!("{head}{tail}"))
        .prop_filter("a name", |name| !name.is_empty())
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof![
        "sha256:[01]{2}".prop_map(|head| format!("{head:0<71}")),
        // These differ behind what the index holds of them.
        "sha256:0{62}[01]{2}",
        "sha512:[01]{128}",
        "[a:]{0,2}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    "[ab]|a\\.b|é"
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]{0,2}", 1 => "v{1000,1002}"]
}

fn image() -> impl Strategy<Value = Image> {
    let labels = prop_oneof![
        8 => prop::collection::btree_map(key(), value(), 0..4),
        // More than the index takes of one image.
        1 => prop::collection::btree_map("[a-z]{2}", Just("a".to_owned()), 62..70),
    ];
    (name(), labels, digest(), "[mn]").prop_map(|(name, labels, digest, media_type)| Image {
        name,
        labels,
        target: MessageField::some(Descriptor { digest, media_type, ..Descriptor::default() }),
        ..Image::default()
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Image),
    Delete(prop::sample::Index),
    SetAside(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => image().prop_map(Step::Put),
        1 => any::<prop::sample::Index>().prop_map(Step::Delete),
        1 => any::<prop::sample::Index>().prop_map(Step::SetAside),
    ]
}

/// A filter that often has something to look up, often of an image that is there.
fn filter() -> impl Strategy<Value = String> {
    let pattern = || {
        prop_oneof![
            "\\^[ab.]{0,3}",
            "\\^(\\(\\?i\\))?[abx]{0,2}[*?+]?[ab]?\\$?",
            "\\^(ab|a\\.b|é)\\|\\^?a",
            "\\^(\\(ab\\|ac\\)|\\(\\^a\\|b\\)|a\\{2\\})",
            "(\\(\\?m\\))\\^[ab]{0,2}",
            "\\^sha(256:0|256:01|512:|2\\.6)[01]{0,20}",
            "\\^sha256:0{60,64}",
            "\\^x{90,110}",
            "[ab]|\\(|a\\^b|\\^",
        ]
    };
    let text = |path: &'static str, operator: &'static str, value: String| {
        format!("{path}{operator}{}", quote(value))
    };
    let operator = || select(vec!["==", "==", "==", "!="]);
    let label = (key(), operator(), value()).prop_map(|(key, operator, value)| {
        format!("labels.{}{operator}{}", quote(key), quote(value))
    });
    let selector = prop_oneof![
        3 => (operator(), name()).prop_map(move |(o, name)| text("name", o, name)),
        3 => (operator(), digest()).prop_map(move |(o, digest)| text("target.digest", o, digest)),
        3 => label,
        3 => pattern().prop_map(move |pattern| text("name", "~=", pattern)),
        2 => pattern().prop_map(move |pattern| text("target.digest", "~=", pattern)),
        1 => pattern().prop_map(move |pattern| text("labels.a", "~=", pattern)),
        1 => select(vec![
            "labels.aa==a", "labels.a.b==a", "labels.a", "name", "target.mediatype==m", "other", "other==a",
            "other!=a", "name.x==a", "target.digest.x!=a", "labels==a", "name==\"\\xff\"",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(selector, 1..4).prop_map(|selectors| selectors.join(","))
}

/// The filters asked with what an image has, so that they find something.
fn about(image: &Image) -> Vec<String> {
    let name = quote(&image.name);
    let digest = quote(&image.target.digest);
    let head: String = image.name.chars().take(2).collect();
    let beginning = quote(format!("^{}", regex::escape(&head)));
    let mut filters = vec![
        format!("name=={name}"),
        format!("name~={beginning}"),
        format!("target.digest=={digest}"),
        format!("target.digest=={digest},name~={beginning}"),
    ];
    for (key, value) in &image.labels {
        filters.push(format!("labels.{}=={}", quote(key), quote(value)));
        filters.push(format!("labels.{}=={},target.digest!={digest}", quote(key), quote(value)));
    }
    filters
}

/// Puts the records in place; gives the images that are there in no order.
fn fill(store: &Store, namespace: &Namespace, steps: Vec<Step>) {
    let other = Namespace::parse("other").unwrap();
    let namespace = namespace.clone();
    let work = move |change: &mut Transaction<'_>| {
        let mut names: Vec<String> = Vec::new();
        for step in &steps {
            match step {
                Step::Put(image) => {
                    let message = image.write_to_bytes().unwrap();
                    change.put(&namespace, Kind::Image, &image.name, &message, None)?;
                    if image.name.len() % 2 == 0 {
                        change.put(&other, Kind::Image, &image.name, &message, None)?;
                    }
                    names.push(image.name.clone());
                }
                Step::Delete(at) if !names.is_empty() => {
                    change.delete(&namespace, Kind::Image, at.get::<String>(&names))?;
                }
                Step::SetAside(at) if !names.is_empty() => {
                    change.set_aside(&namespace, Kind::Image, at.get::<String>(&names))?;
                }
                _ => {}
            }
        }
        Ok(())
    };
    store.writer().write_blocking(work).unwrap();
}

/// All images, decoded, in byte order of names.
fn all(store: &Store, namespace: &Namespace) -> Vec<Image> {
    let decode = |message: &[u8]| Image::parse_from_bytes(message).unwrap();
    let read = store.read(|s| {
        s.scan(namespace, Kind::Image)?.map(|entry| Ok(decode(entry?.message()?))).collect()
    });
    read.unwrap()
}

fn names(message: &[u8]) -> Vec<String> {
    let list = ListImagesResponse::parse_from_bytes(message).unwrap();
    list.images.into_iter().map(|image| image.name).collect()
}

/// Whether the answer, by either way, is that of trying every image.
fn same(store: &Store, namespace: &Namespace, filters: &[String]) -> Result<(), TestCaseError> {
    let filter = Filter::parse_all(filters).unwrap();
    let images = all(store, namespace).into_iter().filter(|image| filter.matches(image)).collect();
    let expected = ListImagesResponse { images, ..Default::default() }.write_to_bytes().unwrap();
    let query = Query::new(filters).unwrap();
    let room = || ReplyBuffer::fixed(usize::MAX, None);
    let listed =
        store.read(|s| list(s, namespace, &query, room(), Cancel::never())).unwrap().reply.unwrap();
    let few = store.read(|s| list_if_few(s, namespace, &query, room(), Cancel::never())).unwrap();
    for found in few.map(|built| built.reply.unwrap()).into_iter().chain([listed]) {
        prop_assert_eq!(names(&found.message), names(&expected), "{:?}: {}", filters, query.plan());
        prop_assert_eq!(&found.message, &expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_planned_answer_is_that_of_trying_every_image(
        steps in prop::collection::vec(step(), 0..60),
        filters in prop::collection::vec(prop::collection::vec(filter(), 1..4), 30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let namespace = Namespace::parse("n").unwrap();
        fill(&store, &namespace, steps);
        for filters in &filters {
            same(&store, &namespace, filters)?;
        }
        for image in all(&store, &namespace).iter().take(12) {
            let about = about(image);
            for filter in &about {
                same(&store, &namespace, std::slice::from_ref(filter))?;
            }
            same(&store, &namespace, &about)?;
        }
    }
}

/// The generators make filters of every kind, or the test above shows little.
#[test]
fn filters_are_planned_in_every_way() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut scans, mut never, mut one, mut more) = (0, 0, 0, 0);
    for _ in 0..500 {
        let filter = filter().new_tree(&mut runner).unwrap().current();
        match QueryPlan::new(&Filter::parse_all(&[filter]).unwrap()) {
            QueryPlan::All => panic!("a filter that asks nothing"),
            QueryPlan::Scan { .. } => scans += 1,
            QueryPlan::Lookups(found) => match found.first().map(Vec::len) {
                None => never += 1,
                Some(1) => one += 1,
                Some(_) => more += 1,
            },
        }
    }
    assert!([scans, never, one, more].iter().all(|n| *n > 20), "{scans} {never} {one} {more}");
}

//! The filters of a request: one on each line. Printing gives lines again, which mean the same.

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::model::filter::Filter;
use lmdb_images::model::image::Image;
use protobuf::MessageField;

/// See the module.
pub fn run(data: &[u8]) {
    let filters: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let filter = match Filter::parse_all(&filters) {
        Ok(filter) => filter,
        Err(error) => return assert!(error.to_string().starts_with("filters: parse error: [")),
    };
    let printed = filter.to_string();
    let lines: Vec<&str> = printed.split('\n').collect();
    let again = Filter::parse_all(&lines).expect("what is printed parses");
    assert_eq!(again, filter, "{printed}");
    assert_eq!(again.to_string(), printed);
    for image in images() {
        assert_eq!(filter.matches(&image), again.matches(&image), "{printed}");
        assert!(!filter.matches_all() || filter.matches(&image));
    }
}

fn images() -> [Image; 2] {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let target = Descriptor {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        digest: format!("sha256:{}", "a5".repeat(32)),
        size: 7,
        annotations: map(&[("a.b", "c"), ("os", "linux")]),
        ..Default::default()
    };
    let image = Image {
        name: "docker.io/library/hello:é".into(),
        labels: map(&[
            ("a", ""),
            ("a.b", "c\u{fffd}"),
            ("os", "linux"),
            ("very", &"long".repeat(50)),
        ]),
        target: MessageField::some(target),
        ..Default::default()
    };
    [Image::default(), image]
}

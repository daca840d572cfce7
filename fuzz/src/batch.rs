//! Batches as `lmdb-images apply` reads them: lines of JSON. A text is refused with the line that is wrong, or each
//! of its lines is an item, which the service takes or refuses.

use std::sync::Arc;

use lmdb_images::admin::batch;
use lmdb_images::model::Namespace;
use lmdb_images::service::catalog::Catalog;
use lmdb_images::service::catalog::batch::MAX_ITEMS;

use super::service::{Service, call, is_told};

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let namespace = Namespace::parse("default").expect("a namespace");
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    let lines: Vec<_> = lines.map(|line| !line.trim().is_empty()).collect();
    let count = lines.iter().filter(|is_item| **is_item).count();
    match batch::parse(text, &namespace) {
        Ok(request) => {
            assert_eq!(request.items.len(), count);
            assert!((1..=MAX_ITEMS).contains(&count));
            let service = Service::get();
            let catalog = Catalog::new(service.local.clone(), Arc::new(service.local.clone()));
            let answer = service.run(catalog.apply(&call(Some("default")), request));
            is_told(&answer);
            service.clear();
        }
        Err(error) => match error.message().strip_prefix("line ") {
            Some(rest) => {
                let (number, why) = rest.split_once(": ").expect("a reason");
                let number: usize = number.parse().expect("a number");
                assert!(lines[number - 1], "line {number} has nothing: {why}");
                assert!(!why.is_empty());
            }
            None => assert!(count == 0 || count > MAX_ITEMS, "{error}"),
        },
    }
}

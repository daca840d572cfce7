//! Requests to the catalogue in sequence: batches, pages, counts, histories, undos. A batch that is refused
//! has changed nothing, and pages together have what is counted.

use std::sync::Arc;

use lmdb_images::api::catalog::{
    ApplyRequest, ChangesRequest, CountRequest, CountResponse, HeadRequest, HeadResponse,
    HistoryRequest, ListRequest, ListResponse, UndoRequest,
};
use lmdb_images::service::catalog::Catalog;
use lmdb_images::service::codec::decode;
use protobuf::Message;

use super::Input;
use super::service::{NAMESPACES, Service, call, is_told};

/// Requests of an input, at most.
const MOST: usize = 40;

/// See the module.
pub fn run(data: &[u8]) {
    let service = Service::get();
    let catalog = Catalog::new(service.local.clone(), Arc::new(service.local.clone()));
    let mut input = Input(data);
    for _ in 0..MOST {
        if input.is_over() {
            break;
        }
        let (method, namespace) = (input.byte(), usize::from(input.byte()));
        let namespace = NAMESPACES[namespace % NAMESPACES.len()];
        one(&service, &catalog, method, namespace, input.piece());
    }
    for namespace in NAMESPACES.iter().flatten().take(2) {
        assert_eq!(names(&service, &catalog, namespace), count(&service, &catalog, namespace));
    }
    service.clear();
}

fn one(
    service: &Service,
    catalog: &Catalog,
    method: u8,
    namespace: Option<&'static str>,
    message: &[u8],
) {
    let call = call(namespace);
    match method % 8 {
        0..=2 => {
            let Ok(request) = ApplyRequest::parse_from_bytes(message) else { return };
            let before = last(service, catalog);
            let items = request.items.len();
            let answer = service.run(catalog.apply(&call, request));
            is_told(&answer);
            match answer {
                Ok(results) => assert_eq!(results.len(), items),
                Err(_) => assert_eq!(last(service, catalog), before),
            }
        }
        3 => {
            let Ok(request) = ListRequest::parse_from_bytes(message) else { return };
            is_told(&service.run(catalog.list(&call, request)));
        }
        4 => {
            let Ok(request) = CountRequest::parse_from_bytes(message) else { return };
            is_told(&service.run(catalog.count(&call, request)));
        }
        5 => {
            let Ok(request) = HistoryRequest::parse_from_bytes(message) else { return };
            is_told(&service.run(catalog.history(&call, request)));
        }
        6 => {
            let Ok(mut request) = ChangesRequest::parse_from_bytes(message) else { return };
            request.wait = None.into();
            is_told(&service.run(catalog.changes(&call, request)));
        }
        _ => {
            let Ok(request) = UndoRequest::parse_from_bytes(message) else { return };
            is_told(&service.run(catalog.undo(&call, request)));
        }
    }
}

fn last(service: &Service, catalog: &Catalog) -> u64 {
    let reply = service.run(catalog.head(&call(None), HeadRequest::new())).expect("a head");
    decode::<HeadResponse>(&reply.message).expect("a message").last
}

fn count(service: &Service, catalog: &Catalog, namespace: &str) -> u64 {
    let call = call(Some(namespace));
    let reply = service.run(catalog.count(&call, CountRequest::new())).expect("a count");
    decode::<CountResponse>(&reply.message).expect("a message").count
}

fn names(service: &Service, catalog: &Catalog, namespace: &str) -> u64 {
    let (mut names, mut request) = (0, ListRequest { page_size: 3, ..ListRequest::default() });
    loop {
        let reply = service.run(catalog.list(&call(Some(namespace)), request.clone()));
        let page: ListResponse = decode(&reply.expect("a page").message).expect("a message");
        names += page.images.len() as u64;
        if page.next_page_token.is_empty() {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

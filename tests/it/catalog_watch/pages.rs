//! Pages while images change, and a watch that follows them.

use super::*;

/// Pages are read while images change; watching from the first page's seq leads to the truth.
#[tokio::test(flavor = "multi_thread")]
async fn pages_during_writes_and_a_watch_from_the_first_page_give_the_state() {
    let images = long("LMDB_IMAGES_PAGED_IMAGES", 3000);
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    for first in (0..images).step_by(1000) {
        let items =
            (first..images.min(first + 1000)).map(|n| put(image(&format!("n{n:07}")), None));
        catalog.call::<ApplyResponse>("Apply", batch(items.collect())).await.unwrap();
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            let mut random = Rng::with_seed(3);
            let mut made = 0;
            while made < 200
                || stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty)
            {
                let name = format!("n{:07}", random.usize(..images + images / 10));
                match random.usize(..3) {
                    0 => {
                        let request = DeleteImageRequest { name, ..Default::default() };
                        let _ = catalog.0.call::<Empty>("Delete", "n", &request).await;
                    }
                    _ => drop(set(&catalog, &name, OTHER).await),
                }
                made += 1;
            }
        })
    };
    let mut state = BTreeMap::new();
    let mut request = ListRequest { page_size: 100, ..ListRequest::default() };
    let (epoch, seq) = loop {
        let page: ListResponse = catalog.call("List", request.clone()).await.unwrap();
        for listed in page.images {
            state.insert(listed.image.name.clone(), listed.image.target.digest.clone());
        }
        if page.next_page_token.is_empty() {
            break (page.epoch, page.seq);
        }
        request.page_token = page.next_page_token;
    };
    drop(stop);
    writer.await.unwrap();
    let last = head(&catalog).await.last;
    let mut watch = catalog.watch(from(&epoch, seq + 1)).await.unwrap();
    for change in watch.changes((last - seq) as usize).await {
        match change.after.as_ref() {
            Some(after) => state.insert(change.name.clone(), after.target.digest.clone()),
            None => state.remove(&change.name),
        };
    }
    let mut truth = BTreeMap::new();
    let mut stream = catalog
        .stream::<ListResponse>("StreamList", ListRequest { page_size: 1000, ..Default::default() })
        .await
        .unwrap();
    while let Some(page) = stream.next().await {
        for listed in page.unwrap().images {
            truth.insert(listed.image.name.clone(), listed.image.target.digest.clone());
        }
    }
    assert_eq!(state, truth);
}

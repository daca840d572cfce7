//! Images and leases that expire.

use super::*;

const PAST: (&str, &str) = ("containerd.io/gc.expire", "2001-01-01T00:00:00Z");

const FUTURE: (&str, &str) = ("containerd.io/gc.expire", "2999-01-01T00:00:00+02:00");

const NEVER: (&str, &str) = ("containerd.io/gc.expire", "some day");

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_delete_removes_expired_images_and_emits_their_events() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let client = served.client(Protocol::Ttrpc).await;
    for (name, label) in [
        ("past", PAST),
        ("leased", PAST),
        ("future", FUTURE),
        ("never", NEVER),
        ("plain", ("a", "b")),
    ] {
        made(&client, "n", name, &[label]).await;
    }
    let lease = |id: &str, label: (&str, &str)| CreateRequest {
        id: id.into(),
        labels: [(label.0.to_owned(), label.1.to_owned())].into(),
        ..Default::default()
    };
    for (id, label) in [("holds", FUTURE), ("expired", PAST)] {
        let _: CreateResponse = call(&channel, LEASES, "Create", &lease(id, label)).await.unwrap();
        let resource = Resource {
            id: if id == "holds" { "leased" } else { "past" }.into(),
            type_: "images".into(),
            ..Default::default()
        };
        let add = AddResourceRequest {
            id: id.into(),
            resource: MessageField::some(resource),
            ..Default::default()
        };
        call::<Empty>(&channel, LEASES, "AddResource", &add).await.unwrap();
    }
    let mut events = subscribe(&served, &["topic==\"/images/delete\""]).await;
    remove(&client, "n", "plain", true).await;
    assert_eq!(names(&client, "n").await, ["future", "leased", "never"]);
    for gone in ["plain", "past"] {
        let event = next(&mut events).await.unwrap();
        assert_eq!(ImageCreate::parse_from_bytes(&event.event.value).unwrap().name, gone);
    }
    let left: ListResponse = call(&channel, LEASES, "List", &ListRequest::new()).await.unwrap();
    assert_eq!(left.leases.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["holds"]);
    // When a lease is deleted with `sync`, the image that it held is collected.
    let give_up = DeleteRequest { id: "holds".into(), sync: true, ..Default::default() };
    call::<Empty>(&channel, LEASES, "Delete", &give_up).await.unwrap();
    assert_eq!(names(&client, "n").await, ["future", "never"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_images_are_removed_after_a_hundred_changes_and_at_the_start() {
    let served = Served::start().await;
    let client = served.client(Protocol::Ttrpc).await;
    let mut events = subscribe(&served, &["topic==\"/images/delete\",event.name==past"]).await;
    made(&client, "n", "past", &[PAST]).await;
    for i in 0..100 {
        made(&client, "n", &format!("{i}"), &[]).await;
    }
    next(&mut events).await.unwrap();
    made(&client, "n", "late", &[PAST]).await;
    let (config, dir) = (support::config(served.dir.path(), Limits::default()), served.dir);
    served.daemon.stop().await;
    let again = Served { daemon: Daemon::start(&config).await.unwrap(), dir };
    let client = again.client(Protocol::Ttrpc).await;
    let get = GetImageRequest { name: "late".into(), ..Default::default() };
    tokio::time::timeout(TEST_TIMEOUT, async {
        while client.call::<GetImageResponse>("Get", "n", &get).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

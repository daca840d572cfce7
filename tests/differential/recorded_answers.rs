//! Replays what containerd 2.3.4 answered, over both protocols: codes, sentences and records must
//! be equal. `tests/data/README.md` says what the recordings hold.
//!
//! `LMDB_IMAGES_RECORDING=FILE` replays another recording of the same form.

use std::io::Read;

use base64::Engine;
use lmdb_images::api::images::{
    CreateImageResponse, GetImageResponse, Image, ListImagesResponse, UpdateImageResponse,
};
use protobuf::Message;
use protobuf::well_known_types::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::support::{BOTH, Client, Protocol, Served};

fn recording() -> String {
    let mut text = String::new();
    match std::env::var_os("LMDB_IMAGES_RECORDING") {
        Some(file) => text = std::fs::read_to_string(file).unwrap(),
        None => {
            let packed = include_bytes!("../data/containerd-2.3.4.jsonl.gz");
            flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        }
    }
    text
}

/// An image in the form of the recordings. A time that `expected` calls "now" is called so when it
/// is of today.
fn shown(image: &Image, expected: &Value) -> Value {
    let mut shown = json!({});
    let map = |m: &std::collections::BTreeMap<String, String>| json!(m);
    if !image.name.is_empty() {
        shown["name"] = json!(image.name);
    }
    if !image.labels.is_empty() {
        shown["labels"] = map(&image.labels);
    }
    if let Some(target) = image.target.as_ref() {
        let mut t = json!({});
        if !target.media_type.is_empty() {
            t["media_type"] = json!(target.media_type);
        }
        if !target.digest.is_empty() {
            t["digest"] = json!(target.digest);
        }
        if target.size != 0 {
            t["size"] = json!(target.size.to_string());
        }
        if !target.annotations.is_empty() {
            t["annotations"] = map(&target.annotations);
        }
        shown["target"] = t;
    }
    let now = Timestamp::now().seconds;
    let time = |t: &Timestamp, expected: &Value| {
        if expected == "now" && (now - t.seconds).abs() < 3600 {
            json!("now")
        } else {
            json!([t.seconds, t.nanos])
        }
    };
    shown["created_at"] = time(&image.created_at, &expected["created_at"]);
    shown["updated_at"] = time(&image.updated_at, &expected["updated_at"]);
    let at = |t: &Timestamp| (t.seconds, t.nanos);
    shown["order"] = json!(match at(&image.created_at).cmp(&at(&image.updated_at)) {
        std::cmp::Ordering::Less => "<",
        std::cmp::Ordering::Equal => "=",
        std::cmp::Ordering::Greater => ">",
    });
    shown
}

fn code_name(code: i32) -> String {
    let code = tonic::Code::from_i32(code);
    let words = format!("{code:?}");
    if words == "Ok" {
        return "OK".into();
    }
    let mut name = String::new();
    for c in words.chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

async fn answer(client: &Client, step: &Value) -> Value {
    let request = base64::engine::general_purpose::STANDARD
        .decode(step["request"].as_str().unwrap())
        .unwrap();
    let method = step["method"].as_str().unwrap();
    let expected = &step["response"];
    match client.raw(method, step["namespace"].as_str(), request).await {
        Err(failed) => {
            json!({"code": code_name(failed.code), "message": failed.message, "response": null})
        }
        Ok(bytes) => {
            let one = |image: Option<Image>| image.map_or(Value::Null, |i| shown(&i, expected));
            let response = match method {
                "Get" => {
                    one(GetImageResponse::parse_from_bytes(&bytes).unwrap().image.into_option())
                }
                "Create" => {
                    one(CreateImageResponse::parse_from_bytes(&bytes).unwrap().image.into_option())
                }
                "Update" => {
                    one(UpdateImageResponse::parse_from_bytes(&bytes).unwrap().image.into_option())
                }
                "Delete" => Value::Null,
                "List" => {
                    let images = ListImagesResponse::parse_from_bytes(&bytes).unwrap().images;
                    images.iter().enumerate().map(|(i, image)| shown(image, &expected[i])).collect()
                }
                other => panic!("method {other}"),
            };
            json!({"code": "OK", "message": "", "response": response})
        }
    }
}

async fn replay(protocol: Protocol) {
    let (mut requests, mut differences) = (0, Vec::new());
    for line in recording().lines() {
        let scenario: Value = serde_json::from_str(line).unwrap();
        let served = Served::start().await;
        let client = served.client(protocol).await;
        for step in scenario["steps"].as_array().unwrap() {
            requests += 1;
            let got = answer(&client, step).await;
            let expected = json!({"code": step["code"], "message": step["message"], "response": step["response"]});
            if got != expected {
                differences.push(format!(
                    "{} {} {}\n  expected {expected}\n  got      {got}",
                    scenario["scenario"], step["method"], step["readable"]
                ));
            }
        }
        drop(client);
        served.daemon.stop().await;
    }
    println!("{protocol:?}: {requests} requests replayed, {} differences", differences.len());
    let shown: Vec<String> =
        differences.iter().take(10).map(|d| d.chars().take(1500).collect()).collect();
    assert!(
        requests > 0 && differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        shown.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_as_recorded() {
    replay(BOTH[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ttrpc_answers_as_recorded() {
    replay(BOTH[1]).await;
}

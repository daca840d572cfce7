//! Runs every input in `fuzz/seeds` through its target, on any compiler. The inputs are those that fuzzing starts from,
//! and those that once ended in a panic under `scripts/soak/fuzz`.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lmdb_images::api::images::ListImagesRequest;
use protobuf::Message;

fn seeds(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

#[test]
fn every_input_is_answered() {
    let folders: BTreeSet<String> = fs::read_dir(seeds(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| (*name).into()).collect();
    assert_eq!(folders, targets, "each target has seeds");
    let mut count = 0;
    for (target, run) in fuzz::TARGETS {
        let mut inputs: Vec<_> =
            fs::read_dir(seeds(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        for input in inputs {
            // Seen when the test fails.
            println!("{}", input.display());
            run(&fs::read(input).unwrap());
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// A step of the recording.
struct Step {
    namespace: Option<String>,
    method: String,
    request: Vec<u8>,
}

fn recording() -> Vec<(String, Vec<Step>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/containerd-2.3.4.jsonl.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let scenario = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let step = |step: &serde_json::Value| Step {
            namespace: step["namespace"].as_str().map(str::to_owned),
            method: step["method"].as_str().unwrap().to_owned(),
            request: BASE64_STANDARD.decode(step["request"].as_str().unwrap()).unwrap(),
        };
        let steps = line["steps"].as_array().unwrap().iter().map(step).collect();
        (line["scenario"].as_str().unwrap().replace('/', "-"), steps)
    };
    text.lines().map(scenario).collect()
}

/// Makes the seeds anew from recorded requests. The inputs that fuzzing has found stay.
#[test]
#[ignore = "writes fuzz/seeds: cargo test --test differential -- --ignored make_seeds"]
fn make_seeds() {
    let keep = |target: &str, name: &str, input: &[u8]| {
        fs::create_dir_all(seeds(target)).unwrap();
        fs::write(seeds(target).join(name), input).unwrap();
    };
    let mut patterns = Vec::new();
    for (scenario, steps) in recording() {
        // Large ones say no more here, and slow it down.
        let steps: Vec<_> = steps.iter().filter(|step| step.request.len() < 400).collect();
        for (index, some) in steps.chunks(12).take(4).enumerate() {
            let name = format!("{scenario}-{index}");
            let requests: Vec<u8> = some.iter().flat_map(|step| request(step)).collect();
            keep("requests", &name, &requests);
            let frames: Vec<u8> = some
                .iter()
                .enumerate()
                .flat_map(|(i, step)| frame(step, 2 * i as u32 + 1))
                .collect();
            keep("frames", &name, &frames);
        }
        let lists = steps.iter().filter(|step| step.method == "List");
        let filters: Vec<String> = lists
            .flat_map(|s| ListImagesRequest::parse_from_bytes(&s.request).unwrap().filters)
            .collect();
        for (index, some) in filters.chunks(3).take(12).enumerate() {
            keep("filter", &format!("{scenario}-{index}"), some.join("\n").as_bytes());
        }
        let found = filters.iter().filter_map(|f| f.split_once("~=").map(|(_, p)| p.to_owned()));
        patterns.extend(found);
        if let Some(create) = steps.iter().find(|step| step.method == "Create") {
            // The image in it, under the key of an image.
            let key = b"v1/n/images/i";
            let image = create.request.get(3..).unwrap_or_default();
            keep("record", &scenario, &[&[key.len() as u8], &key[..], image].concat());
        }
    }
    for (index, pattern) in patterns.iter().step_by(5).take(40).enumerate() {
        keep("regexp", &format!("recorded-{index}"), format!("{pattern}\nabc").as_bytes());
    }
    let patch = |which: u8, patches: &[(u16, u16, &[u8])]| {
        let mut input = vec![which];
        for (page, offset, bytes) in patches {
            input.extend(page.to_le_bytes());
            input.extend(offset.to_le_bytes());
            input.push(bytes.len() as u8);
            input.extend_from_slice(bytes);
        }
        input
    };
    for which in 0..3 {
        for target in ["bbolt_live", "bolt"] {
            keep(target, &format!("whole-{which}"), &patch(which, &[]));
            for (index, offset) in [0u16, 8, 10, 12, 16, 20, 24, 28, 40, 60].into_iter().enumerate()
            {
                let page = [2, 3, 4, 5, 6, 7][index % 6];
                let bad = patch(which, &[(page, offset, &[0xff]), (page + 1, offset, &[1, 0])]);
                keep(target, &format!("patched-{which}-{index}"), &bad);
            }
        }
        keep("verify", &format!("whole-{which}"), &patch(which, &[]));
        for (index, offset) in
            [8u16, 10, 12, 14, 16, 18, 40, 88, 112, 120, 128].into_iter().enumerate()
        {
            let page = [0, 1, 2, 3, 5, 9][index % 6];
            let bad = patch(which, &[(page, offset, &[0xff]), (page + 1, offset + 24, &[1, 0])]);
            keep("verify", &format!("patched-{which}-{index}"), &bad);
        }
    }
}

/// As the target takes it apart.
fn request(step: &Step) -> Vec<u8> {
    let method = ["Get", "List", "Create", "", "Update", "", "Delete"];
    let method = method.iter().position(|m| *m == step.method).unwrap_or(7);
    let namespace = match step.namespace.as_deref() {
        None => 4,
        Some("") => 2,
        Some(_) => 0,
    };
    let length = (step.request.len() as u16).to_le_bytes();
    [&[method as u8, namespace], &length[..], &step.request].concat()
}

fn frame(step: &Step, stream: u32) -> Vec<u8> {
    let mut request = ttrpc::Request::new();
    request.service = "containerd.services.images.v1.Images".into();
    request.method = step.method.clone();
    request.payload = step.request.clone();
    request.metadata.extend(step.namespace.iter().map(|namespace| ttrpc::proto::KeyValue {
        key: "containerd-namespace-ttrpc".into(),
        value: namespace.clone(),
        ..Default::default()
    }));
    let payload = request.write_to_bytes().unwrap();
    let head = ttrpc::proto::MessageHeader::new_request(stream, payload.len() as u32);
    [Vec::from(head), payload].concat()
}

//! The figures of the daemon between two readings.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scrape::{Labels, Sample, Samples};

/// The calls of one method.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Last part of the service's name, and the method: `Images/Get`.
    pub(crate) method: String,
    /// `grpc` or `ttrpc`.
    pub(crate) transport: String,
    /// Calls that ended in a second.
    pub(crate) rate: f64,
    /// Calls that ended in a second with another status than OK.
    pub(crate) failed: f64,
    /// Calls under way: of a stream, such as a watch, the open ones.
    pub(crate) in_flight: f64,
    /// The 99th percentile of their time, as the limit of a bucket; `None` in the last bucket.
    pub(crate) p99: Option<Duration>,
}

/// The calls of one method by one program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClientRow {
    /// Name of the program.
    pub(crate) client: String,
    /// The method, as in [`Row::method`].
    pub(crate) method: String,
    /// Calls that ended in a second.
    pub(crate) rate: f64,
}

/// Figures between two readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    /// Methods with calls, the busiest first.
    pub(crate) rows: Vec<Row>,
    /// Programs and methods with calls, the busiest first.
    pub(crate) clients: Vec<ClientRow>,
    /// Calls under way, streams and watches among them.
    pub(crate) in_flight: f64,
    /// Open watches of the catalogue.
    pub(crate) watches: f64,
    /// Open subscriptions to events.
    pub(crate) subscriptions: f64,
    /// Open connections.
    pub(crate) connections: f64,
    /// Images in the store.
    pub(crate) images: Option<f64>,
    /// Commits in a second.
    pub(crate) commits: f64,
    /// The 99th percentile of the time of commits.
    pub(crate) commit_p99: Option<Duration>,
    /// Number of the newest entry of the log of changes.
    pub(crate) last_change: Option<f64>,
    /// In front of a containerd: whether its events come in.
    pub(crate) following: Option<bool>,
    /// Reads in a second, by where the answer came from.
    pub(crate) reads: Vec<(String, f64)>,
}

/// A method of a transport.
type Key = (String, String);

/// Compares two readings, `time` apart. A counter that went back is of a daemon that was restarted: it counts
/// from zero.
pub(crate) fn between(before: &Samples, after: &Samples, time: Duration) -> Figures {
    let seconds = time.as_secs_f64().max(0.001);
    let sum = |name: &str| after.sum(name);
    let mut rows = methods(before, after, seconds);
    rows.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let mut clients = clients(before, after, seconds);
    clients.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let open = |method: &str| {
        total(rows.iter().filter(|row| row.method == method).map(|row| row.in_flight))
    };
    let (watches, subscriptions) = (open("Catalog/Watch"), open("Events/Subscribe"));
    let of_commits = grown(before, after, "lmdb_images_commit_seconds_count");
    let commits = grown(before, after, "lmdb_images_commit_seconds_bucket");
    let reads = grown(before, after, "lmdb_images_upstream_reads_total");
    let source = |(labels, count): Sample| {
        (labels.get("source").cloned().unwrap_or_default(), count / seconds)
    };
    Figures {
        rows,
        clients,
        watches,
        subscriptions,
        in_flight: sum("lmdb_images_calls_in_flight").unwrap_or_default(),
        connections: sum("lmdb_images_connections").unwrap_or_default(),
        images: sum("lmdb_images_store_images"),
        commits: total(of_commits.iter().map(|(_, count)| *count)) / seconds,
        commit_p99: p99(commits.iter()),
        last_change: sum("lmdb_images_log_last"),
        following: sum("lmdb_images_upstream_following").map(|value| value > 0.0),
        reads: reads.into_iter().map(source).collect(),
    }
}

/// A sum that is 0 for nothing: the standard one is -0.
fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// Methods with calls that ended or that are under way.
fn methods(before: &Samples, after: &Samples, seconds: f64) -> Vec<Row> {
    #[derive(Default)]
    struct Calls {
        ended: f64,
        failed: f64,
        in_flight: f64,
    }
    let mut calls: BTreeMap<Key, Calls> = BTreeMap::new();
    for (labels, count) in grown(before, after, "lmdb_images_calls_total") {
        let call = calls.entry(key(&labels)).or_default();
        call.ended += count;
        if labels.get("code").is_some_and(|code| code != "OK") {
            call.failed += count;
        }
    }
    for (labels, count) in after.of("lmdb_images_calls_in_flight") {
        calls.entry(key(labels)).or_default().in_flight += count;
    }
    let buckets = grown(before, after, "lmdb_images_call_seconds_bucket");
    calls
        .into_iter()
        .filter(|(_, calls)| calls.ended > 0.0 || calls.in_flight > 0.0)
        .map(|(of, calls)| Row {
            p99: p99(buckets.iter().filter(|(labels, _)| key(labels) == of)),
            method: of.0,
            transport: of.1,
            rate: calls.ended / seconds,
            failed: calls.failed / seconds,
            in_flight: calls.in_flight,
        })
        .collect()
}

/// Programs and methods with calls that ended.
fn clients(before: &Samples, after: &Samples, seconds: f64) -> Vec<ClientRow> {
    grown(before, after, "lmdb_images_client_calls_total")
        .into_iter()
        .filter(|(_, count)| *count > 0.0)
        .map(|(labels, count)| ClientRow {
            client: labels.get("client").cloned().unwrap_or_default(),
            method: key(&labels).0,
            rate: count / seconds,
        })
        .collect()
}

fn key(labels: &Labels) -> Key {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let service = label("service");
    let service = service.rsplit('.').next().unwrap_or_default();
    (format!("{service}/{}", label("method")), label("transport"))
}

/// By how much each counter of a metric has grown.
fn grown(before: &Samples, after: &Samples, name: &str) -> Vec<Sample> {
    let was: BTreeMap<_, _> =
        before.of(name).iter().map(|(labels, value)| (labels, *value)).collect();
    let grown = |(labels, value): &Sample| {
        let was = was.get(labels).copied().unwrap_or_default();
        (labels.clone(), if *value < was { *value } else { value - was })
    };
    after.of(name).iter().map(grown).collect()
}

/// The limit of the bucket that holds the 99th of 100 calls, of buckets that each count those below it too.
fn p99<'b>(buckets: impl Iterator<Item = &'b Sample>) -> Option<Duration> {
    let limit = |(labels, count): &Sample| Some((labels.get("le")?.parse::<f64>().ok()?, *count));
    let mut buckets: Vec<(f64, f64)> = buckets.filter_map(limit).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (_, all) = *buckets.last()?;
    let (limit, _) = buckets.into_iter().find(|(_, count)| all > 0.0 && *count >= all * 0.99)?;
    Duration::try_from_secs_f64(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "lmdb_images_calls_total{service=\"containerd.services.images.v1.Images\",method=\"Get\",transport=\"grpc\",code=\"OK\"} 100\n\
        lmdb_images_upstream_reads_total{source=\"files\"} 5\n";

    fn after(calls: u32) -> Samples {
        let labels =
            "service=\"containerd.services.images.v1.Images\",method=\"Get\",transport=\"grpc\"";
        Samples::parse(&format!(
            "lmdb_images_calls_total{{{labels},code=\"OK\"}} {calls}\n\
             lmdb_images_calls_total{{{labels},code=\"NOT_FOUND\"}} 10\n\
             lmdb_images_call_seconds_bucket{{{labels},le=\"0.001\"}} 98\n\
             lmdb_images_call_seconds_bucket{{{labels},le=\"0.01\"}} 99\n\
             lmdb_images_call_seconds_bucket{{{labels},le=\"+Inf\"}} 100\n\
             lmdb_images_calls_in_flight{{transport=\"grpc\"}} 3\n\
             lmdb_images_calls_in_flight{{transport=\"ttrpc\"}} 1\n\
             lmdb_images_upstream_following 1\n\
             lmdb_images_upstream_reads_total{{source=\"files\"}} 9\n"
        ))
    }

    #[test]
    fn rates_are_differences_per_second() {
        let found = between(&Samples::parse(BEFORE), &after(300), Duration::from_secs(2));
        let row = &found.rows[0];
        assert_eq!((row.method.as_str(), row.transport.as_str()), ("Images/Get", "grpc"));
        assert_eq!((row.rate, row.failed), (105.0, 5.0));
        assert_eq!(row.p99, Some(Duration::from_millis(10)));
        assert_eq!((found.in_flight, found.following), (4.0, Some(true)));
        assert_eq!(found.reads, [("files".to_owned(), 2.0)]);
    }

    #[test]
    fn a_daemon_that_was_restarted_counts_from_zero() {
        let found = between(&Samples::parse(BEFORE), &after(40), Duration::from_secs(1));
        assert_eq!(found.rows[0].rate, 50.0);
    }

    #[test]
    fn a_call_beyond_all_buckets_has_no_limit() {
        let bucket = |le: &str, count| ([("le".to_owned(), le.to_owned())].into(), count);
        assert_eq!(p99([bucket("0.1", 1.0), bucket("+Inf", 10.0)].iter()), None);
        assert_eq!(p99([bucket("0.1", 0.0), bucket("+Inf", 0.0)].iter()), None);
    }
}

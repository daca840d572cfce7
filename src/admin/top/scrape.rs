//! Reads the metrics of a daemon, in the text format of OpenMetrics.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::model::{Error, Result};

/// How long the daemon may take for one answer: it looks at its store for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read. A daemon's has some hundred KiB.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// HTTP 1.0 has no chunks: the answer ends with the connection.
const REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\n\r\n";

/// The metrics address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A port.
    Tcp(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// The labels of a sample.
pub(crate) type Labels = BTreeMap<String, String>;

/// One value of a metric, with its labels.
pub(crate) type Sample = (Labels, f64);

/// One reading: each metric by its name and labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples {
    values: BTreeMap<String, Vec<Sample>>,
}

/// Reads the metrics.
///
/// # Errors
/// `Unavailable` if no daemon answers there, or not with metrics.
pub(crate) async fn scrape(endpoint: &Endpoint) -> Result<Samples> {
    let failed = |what: String| Error::Unavailable(format!("metrics at {endpoint}: {what}"));
    let read = async {
        match endpoint {
            Endpoint::Unix(path) => exchange(UnixStream::connect(path).await?).await,
            Endpoint::Tcp(address) => exchange(TcpStream::connect(address).await?).await,
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, read)
        .await
        .map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|e| failed(with_advice(&e)))?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split_whitespace().nth(1) == Some("200") => {
            Ok(Samples::parse(body))
        }
        Some((head, _)) => {
            let status = head.lines().next().unwrap_or_default();
            Err(failed(format!("answered {}", crate::model::printable::one_line(status))))
        }
        None => Err(failed("the program that answers does not speak HTTP".into())),
    }
}

/// An error of the connection, with its likely cause.
fn with_advice(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("{error}: run the command as root, or as the daemon's user or group")
        }
        _ => format!("{error}: is the daemon running, and is metrics_address set in its settings?"),
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<Vec<u8>> {
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

impl Samples {
    /// Parses the text of a reading. A line that is none of the format is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = sample(line) {
                samples.values.entry(name).or_default().push((labels, value));
            }
        }
        samples
    }

    /// The values of a metric, with their labels.
    pub(crate) fn of(&self, name: &str) -> &[Sample] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The sum of the values of a metric; `None` if there is none.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.values.get(name).map(|values| values.iter().map(|(_, value)| value).sum())
    }
}

/// `name{key="value"} 1.5`
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at_checked(end)?;
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches(',');
            if let Some(after) = inside.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, behind) = inside.split_once("=\"")?;
            let (value, after) = quoted(behind)?;
            labels.insert(key.to_owned(), value);
            inside = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// The text up to its closing quote, and the rest behind the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_parsed() {
        let samples = Samples::parse(
            "# TYPE a counter\na_total{x=\"1\",y=\"q\\\"\\\\,}\"} 2\na_total{x=\"2\"} 3.5 12\nb 1e3\nbroken{x=\"\nc\n# EOF\n",
        );
        let labels =
            [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "q\"\\,}".to_owned())].into();
        assert_eq!(samples.of("a_total")[0], (labels, 2.0));
        assert_eq!(
            (samples.sum("a_total"), samples.sum("b"), samples.sum("c")),
            (Some(5.5), Some(1000.0), None)
        );
    }

    #[tokio::test]
    async fn another_program_at_the_address_is_an_error_with_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let missing = scrape(&Endpoint::Unix(path.clone())).await.unwrap_err();
        assert!(missing.message().contains("is metrics_address set in its settings"), "{missing}");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            for answer in ["HTTP/1.0 404 Not Found\r\n\r\nx", "SSH-2.0\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
        for says in ["answered HTTP/1.0 404 Not Found", "does not speak HTTP"] {
            let error = scrape(&Endpoint::Unix(path.clone())).await.unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }
}

//! What comes out: tables as text for the reader, as Markdown and JSON in a folder, and in the
//! documents, between marks:
//!
//! ```text
//! <!-- bench:NAME --> … <!-- /bench:NAME -->
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::Result;

/// The documents that may show tables.
const DOCUMENTS: [&str; 2] = ["README.md", "docs/performance.md"];

/// The repository's top folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where results go.
pub struct Report {
    out: PathBuf,
    update_docs: bool,
}

impl Report {
    /// Results go to `out`, and to the documents if wanted.
    pub fn new(out: &Path, update_docs: bool) -> Result<Self> {
        fs::create_dir_all(out).map_err(|e| format!("--out {}: {e}", out.display()))?;
        Ok(Self { out: out.into(), update_docs })
    }

    /// Prints a table and keeps it as NAME.md and NAME.json.
    pub fn table(&self, name: &str, markdown: &str, json: &Value) -> Result<()> {
        println!("\n{markdown}");
        fs::write(self.out.join(format!("{name}.md")), markdown)?;
        fs::write(self.out.join(format!("{name}.json")), serde_json::to_string_pretty(json)?)?;
        if !self.update_docs {
            return Ok(());
        }
        let mut shown = false;
        for document in DOCUMENTS.map(|document| repository().join(document)) {
            let text = fs::read_to_string(&document).unwrap_or_default();
            if let Some(text) = replaced(&text, name, markdown) {
                fs::write(&document, text)?;
                shown = true;
            }
        }
        if !shown {
            eprintln!(
                "no document has a place for {name}: <!-- bench:{name} --> … <!-- /bench:{name} -->"
            );
        }
        Ok(())
    }

    /// Keeps a drawing as NAME.svg.
    pub fn drawing(&self, name: &str, svg: &str) -> Result<()> {
        let file = format!("{name}.svg");
        fs::write(self.out.join(&file), svg)?;
        if self.update_docs {
            fs::write(repository().join("docs").join(file), svg)?;
        }
        Ok(())
    }
}

/// `text` with the part between the marks of `name` replaced; none if it has no such marks.
fn replaced(text: &str, name: &str, with: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n{end}{after}", with.trim_end()))
}

/// A table in Markdown; all columns but the first are numbers.
pub fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: Vec<_> =
        (0..head.len()).map(|i| if i == 0 { "---" } else { "---:" }.into()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{}{rows}", line(head), line(&rule))
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Calls a second: more is better.
    Rate,
    /// Seconds: less is better.
    Time,
    /// Bytes: fewer are better.
    Bytes,
}

impl Unit {
    /// For a reader: three digits that count.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{}/s", thousands(value)),
            Self::Time if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
            Self::Time if value < 1.0 => format!("{} ms", digits(value * 1e3)),
            Self::Time => format!("{} s", digits(value)),
            Self::Bytes if value < 1e6 => format!("{} KiB", digits(value / 1024.0)),
            Self::Bytes => format!("{} MiB", digits(value / (1 << 20) as f64)),
        }
    }

    /// How many times `ours` is better than `theirs`.
    pub fn ratio(self, theirs: f64, ours: f64) -> f64 {
        if self == Self::Rate { ours / theirs } else { theirs / ours }
    }
}

/// A cell for a value that may not be there.
pub fn cell(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), show)
}

/// A ratio for a reader.
pub fn times(ratio: f64) -> String {
    format!("{} ×", digits(ratio))
}

fn digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => thousands(v),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Whole, with commas.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How far a part of the run is: a bar on a terminal, lines elsewhere.
pub struct Progress(ProgressBar);

impl Progress {
    /// For a number of steps.
    pub fn new(steps: u64) -> Result<Self> {
        let bar = ProgressBar::new(steps);
        bar.set_style(ProgressStyle::with_template(
            "{elapsed_precise} {bar:30} {pos}/{len} {msg}",
        )?);
        Ok(Self(bar))
    }

    /// What is done from now on.
    pub fn say(&self, what: &str) {
        if self.0.is_hidden() {
            eprintln!("{what}");
        }
        self.0.set_message(what.to_owned());
    }

    /// A step was done.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// All was done.
    pub fn done(self) {
        self.0.finish_and_clear();
    }
}

//! The only way from a command to standard output and standard error.
//!
//! What is printed is escaped here once more, line by line, whatever a command has done to it: nothing
//! from outside reaches the terminal as it is. An output that fails is no panic: the command ends
//! with an exit status of its own, and says what it has done by then.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use tabwriter::TabWriter;

use crate::model::go::quote::quote;
use crate::model::printable::{escaped, is_visible, one_line, shortened};
use crate::model::{Error, Result};

/// The exit status after standard output could not be written, to a full disk for example.
const OUTPUT_FAILED: u8 = 4;

/// The exit status after the reader of a pipe has closed it: what a shell shows of a program that
/// SIGPIPE ended.
const OUTPUT_CLOSED: u8 = 128 + 13;

/// Around the cells of a table's head: all that may reach a terminal as a control sequence.
const BOLD: [&str; 2] = ["\u{1b}[1m", "\u{1b}[0m"];

/// A longer text in a table is shortened in the middle.
pub const MAX_CELL_CHARS: usize = 100;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Its work failed.
    Command(Error),
    /// All is said; this is the exit status.
    Status(ExitCode),
    /// Standard output could not be written.
    Output {
        /// Why.
        error: io::Error,
        /// What the command had done by then, if it changes something.
        done: Option<String>,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Command(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // What is printed may be read only then, and the reading fail.
        match error.downcast::<Error>() {
            Ok(error) => Self::Command(error),
            Err(error) => Self::Output { error, done: None },
        }
    }
}

impl Failure {
    /// Says what failed, and gives the exit status.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Command(error) => {
                report_error(error);
                ExitCode::FAILURE
            }
            Self::Status(status) => *status,
            Self::Output { error, done } if error.kind() == ErrorKind::BrokenPipe => {
                // The reader had enough; what was changed is said nevertheless.
                if let Some(done) = done {
                    report_error(format_args!("standard output is closed; {done}"));
                }
                ExitCode::from(OUTPUT_CLOSED)
            }
            Self::Output { error, done } => {
                let done = done.as_ref().map(|done| format!("; {done}")).unwrap_or_default();
                report_error(format_args!("writing to standard output: {error}{done}"));
                ExitCode::from(OUTPUT_FAILED)
            }
        }
    }
}

/// Standard output, line by line. After a line that failed further ones are dropped, and [`finish`]
/// gives the error: a command that changes something goes on.
///
/// [`finish`]: Output::finish
pub struct Output {
    lines: EscapingWriter<Box<dyn Write>>,
    failed: Option<io::Error>,
}

impl Output {
    /// Standard output. Colours are taken out unless it is a terminal that has them, or when
    /// NO_COLOR is set.
    pub fn new() -> Self {
        Self { lines: EscapingWriter::new(Box::new(anstream::stdout())), failed: None }
    }

    /// Prints a line at once.
    pub fn line(&mut self, line: impl fmt::Display) {
        if self.failed.is_none() {
            let written = writeln!(self.lines, "{line}").and_then(|()| self.lines.flush());
            self.failed = written.err();
        }
    }

    /// Whether all could be printed. `done` says what the command has changed.
    pub fn finish(self, done: impl fmt::Display) -> Result<(), Failure> {
        let done = Some(done.to_string());
        self.failed.map_or(Ok(()), |error| Err(Failure::Output { error, done }))
    }
}

/// Prints to standard output what `write` writes, for a command that changes nothing.
pub fn print(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> std::result::Result<(), Failure> {
    let mut out = EscapingWriter::new(BufWriter::new(anstream::stdout().lock()));
    let written = write(&mut out).and_then(|()| out.flush());
    if written.is_err() {
        // What is still in the buffer has no reader.
        drop(out.inner.into_parts());
    }
    Ok(written?)
}

/// Prints a line to standard error; one that cannot be printed is dropped, as there is no other place
/// for it.
pub fn note(line: impl fmt::Display) {
    let line = one_line(&line.to_string());
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints the sentence of an error.
pub fn report_error(error: impl fmt::Display) {
    note(format_args!("lmdb-images: {error}"));
}

/// Prints what clap made of a help or an error, as it is or escaped, to either output.
pub fn print_rendered(text: &clap::builder::StyledStr, to_stderr: bool) -> io::Result<()> {
    let plain = text.to_string();
    let text = match plain.lines().all(|line| line.chars().all(is_visible)) {
        true => text.ansi().to_string(),
        false => plain.lines().map(|line| format!("{}\n", escaped(line))).collect(),
    };
    if to_stderr {
        return anstream::stderr().lock().write_all(text.as_bytes());
    }
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Escapes what is written through it, but for line ends and the styles of a table's head.
struct EscapingWriter<W> {
    inner: W,
    line: Vec<u8>,
}

impl<W: Write> EscapingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, line: Vec::new() }
    }

    fn write_line(&mut self, end: &[u8]) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        self.inner.write_all(escaped_line(&String::from_utf8_lossy(&line)).as_bytes())?;
        self.inner.write_all(end)
    }
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let (line, behind) = rest.split_at(at);
            self.line.extend_from_slice(line);
            self.write_line(b"\n")?;
            rest = behind.get(1..).unwrap_or_default();
        }
        self.line.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.write_line(b"")?;
        }
        self.inner.flush()
    }
}

/// A line with what is not visible escaped; tabs separate fields.
fn escaped_line(line: &str) -> Cow<'_, str> {
    if line.chars().all(|c| is_visible(c) || c == '\t') {
        return Cow::Borrowed(line);
    }
    let is_head = line.starts_with(BOLD[0]);
    let fields = line.split('\t').map(|field| match is_head {
        true => field
            .split(BOLD[0])
            .map(|part| {
                let parts: Vec<_> = part.split(BOLD[1]).map(escaped).collect();
                parts.join(BOLD[1])
            })
            .collect::<Vec<_>>()
            .join(BOLD[0]),
        false => escaped(field).into_owned(),
    });
    Cow::Owned(fields.collect::<Vec<_>>().join("\t"))
}

/// Prints a table: cells of a row are separated by tabs. The first row is its head.
pub fn table(
    out: &mut dyn Write,
    head: &str,
    rows: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut table = TabWriter::new(out).minwidth(1).padding(2).ansi(true);
    let bold = anstyle::Style::new().bold();
    // A style that spans cells would count as part of their widths.
    let cells: Vec<String> = head.split('\t').map(|cell| format!("{bold}{cell}{bold:#}")).collect();
    writeln!(table, "{}", cells.join("\t"))?;
    rows(&mut table)?;
    table.flush()
}

/// Text as it is, if every character of it is to be seen; else as a Go string literal. So a name
/// has one line, one cell, and moves no cursor.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && !text.starts_with('"') && text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(escaped(&quote(text)).into_owned())
}

/// The same for a table, where a long text would widen every row: shortened in the middle.
pub fn cell(text: &str, max: usize) -> String {
    visible(&shortened(text, max)).into_owned()
}

/// One JSON document, on several lines for people.
pub fn pretty(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("writing JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        for plain in ["docker.io/library/a:1", "ü", "two words", "a\"b"] {
            assert_eq!(visible(plain), plain);
        }
        for (text, spelled) in [
            ("a\nb", r#""a\nb""#),
            ("a\tb", r#""a\tb""#),
            ("\x1b[31mred", r#""\x1b[31mred""#),
            ("\u{202e}gpj.exe", r#""\u202egpj.exe""#),
            ("a\u{3164}", r#""a\u3164""#),
            ("\"a\"", r#""\"a\"""#),
            ("", r#""""#),
        ] {
            assert_eq!(visible(text), spelled);
        }
    }

    #[test]
    fn the_columns_of_a_table_stand_below_each_other() {
        let mut out = Vec::new();
        table(&mut out, "NAME\tN", |t| writeln!(t, "a\t1\nlonger\t2")).unwrap();
        let text = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(String::from_utf8(text).unwrap(), "NAME    N\na       1\nlonger  2\n");
    }

    #[test]
    fn nothing_passes_the_output_but_lines_and_the_styles_of_a_head() {
        let mut out = EscapingWriter::new(Vec::new());
        let bold = |text: &str| format!("{}{text}{}", BOLD[0], BOLD[1]);
        writeln!(out, "{}  {}", bold("NAME"), bold("SIZE")).unwrap();
        // In pieces, as a buffer may cut it.
        for byte in "a\tb\u{1b}[1mc\u{9b}31m\u{202e}é\nrest\r".bytes() {
            out.write_all(&[byte]).unwrap();
        }
        out.flush().unwrap();
        let rest = "a\tb\\u001b[1mc\\u009b31m\\u202eé\nrest\\r";
        let expected = format!("{}  {}\n{rest}", bold("NAME"), bold("SIZE"));
        assert_eq!(String::from_utf8(out.inner).unwrap(), expected);
    }
}

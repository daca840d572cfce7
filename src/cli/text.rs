//! The texts that commands print: escaped lines, tables, cells and JSON.
//!
//! External text never reaches a terminal unescaped. This module writes to no stream of the process:
//! [`output`](super::output) does.

use std::borrow::Cow;
use std::io::{self, Write};

use go_compat::quote::quote;
use tabwriter::TabWriter;

use crate::model::printable::{escaped, is_visible, shortened};
use crate::model::{Context, Result};

/// Style of the cells of a table's head: the only control sequences that reach a terminal.
pub(crate) const BOLD: [&str; 2] = ["\u{1b}[1m", "\u{1b}[0m"];

/// Length from which a text in a table is shortened in the middle.
pub(crate) const MAX_CELL_CHARS: usize = 100;

/// A writer that escapes everything except line ends and the styles of a table's head.
pub(crate) struct EscapingWriter<W> {
    inner: W,
    line: Vec<u8>,
}

impl<W: Write> EscapingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, line: Vec::new() }
    }

    /// The inner writer. A line that has not ended yet is dropped.
    pub(crate) fn into_inner(self) -> W {
        self.inner
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

/// Escapes the invisible characters of a line, except the tabs between its fields.
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

/// Prints a table with a head. `rows` writes lines whose cells are separated by tabs.
pub(crate) fn table(
    out: &mut dyn Write,
    head: &str,
    rows: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut table = TabWriter::new(out).minwidth(1).padding(2).ansi(true);
    let bold = anstyle::Style::new().bold();
    // Each cell has its own style: TabWriter would count a style that spans cells as part of their widths.
    let cells: Vec<String> = head.split('\t').map(|cell| format!("{bold}{cell}{bold:#}")).collect();
    writeln!(table, "{}", cells.join("\t"))?;
    rows(&mut table)?;
    table.flush()
}

/// Returns a text unchanged if all its characters are visible, else as a Go string literal. So a name
/// stays on one line and in one cell, and cannot move the cursor.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && !text.starts_with('"') && text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(escaped(&quote(text)).into_owned())
}

/// As [`visible`], and shortened in the middle: in a table, a long text would widen every row.
pub(crate) fn cell(text: &str, max: usize) -> String {
    visible(&shortened(text, max)).into_owned()
}

/// Formats a value as indented JSON.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).or_internal("writing JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
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
    fn control_characters_are_escaped_except_line_ends_and_head_styles() {
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
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), expected);
    }
}

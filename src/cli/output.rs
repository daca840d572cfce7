//! Printing results: buffered, in colours on a terminal only, and without complaint when whoever reads
//! has had enough.

use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, Write};

use tabwriter::TabWriter;

use crate::model::go::charset::is_print;
use crate::model::go::quote::quote;
use crate::model::{Error, Result};

/// Prints to standard output what `write` writes. Colours are taken out unless it is a terminal
/// that has them, or when NO_COLOR is set. Where the reader closed its end (`| head`) it ends early.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(anstream::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            // What is still in the buffer has nobody to go to.
            drop(out.into_parts());
            Ok(())
        }
        Err(e) => Err(Error::Internal(format!("writing to standard output: {e}"))),
        Ok(()) => Ok(()),
    }
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
    if !text.is_empty() && !text.starts_with('"') && text.chars().all(is_print) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(quote(text))
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
}

//! All output of commands to standard output and standard error.
//!
//! This module escapes every line once more, so that external text never reaches the terminal unescaped.
//! When writing fails the program does not panic: it ends with an exit status of its own and reports what
//! the command had done until then.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use anstyle::Style;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::text::EscapingWriter;
use crate::model::printable::{escaped, one_line};
use crate::model::{Error, Result};

/// Exit status of a failed command if its status 1 is a result, as of Unix's `diff`.
const EXIT_NO_RESULT: u8 = 2;

/// Exit status if standard output cannot be written, for example to a full disk.
const EXIT_OUTPUT_FAILED: u8 = 4;

/// Exit status if the reader of a pipe has closed it: the status that a shell shows for SIGPIPE.
const EXIT_OUTPUT_CLOSED: u8 = 128 + 13;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command failed.
    Command(Error),
    /// A command failed whose exit status 1 is a result, such as a difference.
    NoResult(Error),
    /// The message is printed already; this is the exit status.
    Status(ExitCode),
    /// Standard output could not be written.
    Output {
        /// Cause of the failure.
        error: io::Error,
        /// The changes of the command until then, if it changes anything.
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
        // Printing may read records on the way, and an error of reading then comes wrapped.
        match error.downcast::<Error>() {
            Ok(error) => Self::Command(error),
            Err(error) => Self::Output { error, done: None },
        }
    }
}

impl Failure {
    /// The same of a command that has changed something before it failed to print it: `done` says what.
    pub(crate) fn after(self, done: impl fmt::Display) -> Self {
        match self {
            Self::Output { error, .. } => Self::Output { error, done: Some(done.to_string()) },
            other => other,
        }
    }

    /// The same of a command whose exit status 1 is a result.
    pub(crate) fn without_result(self) -> Self {
        match self {
            Self::Command(error) => Self::NoResult(error),
            other => other,
        }
    }

    /// Prints the failure to stderr, and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Command(error) => {
                report_error(error);
                ExitCode::FAILURE
            }
            Self::NoResult(error) => {
                report_error(error);
                ExitCode::from(EXIT_NO_RESULT)
            }
            Self::Status(status) => *status,
            Self::Output { error, done } if error.kind() == ErrorKind::BrokenPipe => {
                // A reader may close the pipe early, but the user still learns what was changed.
                if let Some(done) = done {
                    report_error(format_args!("standard output is closed; {done}"));
                }
                ExitCode::from(EXIT_OUTPUT_CLOSED)
            }
            Self::Output { error, done } => {
                let done = done.as_ref().map(|done| format!("; {done}")).unwrap_or_default();
                report_error(format_args!("writing to standard output: {error}{done}"));
                ExitCode::from(EXIT_OUTPUT_FAILED)
            }
        }
    }
}

/// Standard output, line by line, for commands that change something: they continue when a line cannot be
/// printed. Further lines are then dropped, and [`finish`] returns the error.
///
/// [`finish`]: Output::finish
pub(crate) struct Output {
    lines: EscapingWriter<Box<dyn Write>>,
    failed: Option<io::Error>,
}

impl Output {
    /// Opens standard output. Styles are removed if it is not a terminal or if NO_COLOR is set.
    pub(crate) fn new() -> Self {
        let lines = EscapingWriter::new(Box::new(anstream::stdout()) as Box<dyn Write>);
        Self { lines, failed: check_writable().err() }
    }

    /// Prints and flushes a line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) {
        if self.failed.is_none() {
            let written = writeln!(self.lines, "{line}").and_then(|()| self.lines.flush());
            self.failed = written.err();
        }
    }

    /// Returns the error of the first line that could not be printed. `done` says what the command has
    /// changed.
    pub(crate) fn finish(self, done: impl fmt::Display) -> Result<(), Failure> {
        let done = Some(done.to_string());
        self.failed.map_or(Ok(()), |error| Err(Failure::Output { error, done }))
    }
}

/// Standard output whose cells have styles. Each cell is escaped before it gets its style.
pub(crate) struct StyledOutput {
    out: Box<dyn Write>,
    /// The widths of the columns so far.
    widths: Vec<usize>,
}

impl StyledOutput {
    /// Opens standard output. Styles are removed if it is not a terminal or if NO_COLOR is set.
    pub(crate) fn new() -> Self {
        Self { out: Box::new(anstream::stdout()), widths: Vec::new() }
    }

    /// Prints and flushes a line that has no styles.
    pub(crate) fn text(&mut self, line: &str) -> io::Result<()> {
        check_writable()?;
        writeln!(self.out, "{}", escaped(line))?;
        self.out.flush()
    }

    /// Prints and flushes a line of cells. Columns grow with their cells, and never shrink.
    pub(crate) fn line(&mut self, cells: &[(Style, String)]) -> io::Result<()> {
        check_writable()?;
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        let mut line = String::new();
        let mut gap = 0;
        for ((style, text), width) in cells.iter().zip(&mut self.widths) {
            let text = escaped(text);
            let length = text.chars().count();
            *width = (*width).max(length);
            line.extend(std::iter::repeat_n(' ', gap));
            line.push_str(&format!("{style}{text}{style:#}"));
            gap = *width - length + 2;
        }
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    /// Prints a table with a head.
    pub(crate) fn table(
        &mut self,
        heads: &[&str],
        rows: &[Vec<(Style, String)>],
    ) -> io::Result<()> {
        let bold = Style::new().bold();
        let head: Vec<_> = heads.iter().map(|head| (bold, (*head).to_owned())).collect();
        for row in rows.iter().chain([&head]) {
            let lengths = row.iter().map(|(_, text)| escaped(text).chars().count());
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, length) in self.widths.iter_mut().zip(lengths) {
                *width = (*width).max(length);
            }
        }
        [&head].into_iter().chain(rows).try_for_each(|row| self.line(row))
    }
}

/// Refuses a standard output that is open for reading only: the standard library drops what is written to it
/// without an error. In place of a closed one the standard library opens `/dev/null`.
fn check_writable() -> io::Result<()> {
    let flags = fcntl(io::stdout(), FcntlArg::F_GETFL)?;
    match OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => Err(Errno::EBADF.into()),
        _ => Ok(()),
    }
}

/// Prints the output of `write` to standard output, for commands that change nothing.
pub(crate) fn print(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> std::result::Result<(), Failure> {
    let mut write = Some(write);
    print_once(&mut |out| write.take().map_or(Ok(()), |write| write(out)))
}

fn print_once(
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> std::result::Result<(), Failure> {
    check_writable()?;
    let mut out = EscapingWriter::new(BufWriter::new(anstream::stdout().lock()));
    let written = write(&mut out).and_then(|()| out.flush());
    if written.is_err() {
        // Drop the buffer without another attempt to write it.
        drop(out.into_inner().into_parts());
    }
    Ok(written?)
}

/// Prints a line to standard error. If that fails, the line is dropped.
pub(crate) fn note(line: impl fmt::Display) {
    let line = one_line(&line.to_string());
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints an error to standard error.
pub(crate) fn report_error(error: impl fmt::Display) {
    note(format_args!("lmdb-images: {error}"));
}

/// Prints a help or an error that clap rendered, to standard output or standard error. Escapes it if it
/// has invisible characters, and shortens long values of an error.
pub(crate) fn print_rendered(text: &clap::builder::StyledStr, to_stderr: bool) -> io::Result<()> {
    let plain = text.to_string();
    let shown = |line: &str| match to_stderr {
        true => one_line(line),
        false => escaped(line).into_owned(),
    };
    let text = match plain.lines().all(|line| shown(line) == line) {
        true => text.ansi().to_string(),
        false => plain.lines().map(|line| format!("{}\n", shown(line))).collect(),
    };
    if to_stderr {
        return anstream::stderr().lock().write_all(text.as_bytes());
    }
    check_writable()?;
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::BOLD;

    #[test]
    fn a_styled_line_escapes_its_cells_and_keeps_its_columns() {
        let shared = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Box::new(Shared(std::sync::Arc::clone(&shared)));
        let mut styled = StyledOutput { out, widths: Vec::new() };
        let bold = Style::new().bold();
        let row = |a: &str, b: &str| vec![(bold, a.to_owned()), (Style::new(), b.to_owned())];
        styled.table(&["A", "B"], &[row("x\u{1b}[31m", "1"), row("yy", "2\n3")]).unwrap();
        let text = String::from_utf8(shared.lock().unwrap().clone()).unwrap();
        let expected = format!(
            "{0}A{1}            {0}B{1}\n{0}x\\u001b[31m{1}  1\n{0}yy{1}           2\\n3\n",
            BOLD[0], BOLD[1]
        );
        assert_eq!(text, expected);
    }
}

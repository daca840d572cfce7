//! `lmdb-images top`.

use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Text;
use ratatui::widgets::{Row as TableRow, Table};
use ratatui::{DefaultTerminal, Frame};

use super::block_on;
use super::output::{Failure, print};
use super::settings_file::File;
use super::text::table;
use crate::admin::top::figures::between;
use crate::admin::top::{Endpoint, Figures, Samples, scrape};
use crate::daemon::metrics::Address;
use crate::model::printable::one_line;
use crate::model::{Error, Result};

const SECOND: Duration = Duration::from_secs(1);

/// Show the activity of a running daemon: calls by method and by program, times, watches, reads
///
/// Reads the daemon's metrics, so metrics_address must be set in its settings. P99 is the time in which 99 of
/// 100 calls ended, rounded up to the limit of a bucket of the metrics. The number of calls under
/// way is that at the last reading; a watch is under way as long as it is open. The key q ends the command.
#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    file: File,

    /// Address of the daemon's metrics [default: metrics_address of its settings]
    #[arg(long, env = "LMDB_IMAGES_METRICS_ADDRESS", value_name = "ADDRESS")]
    metrics_address: Option<Address>,

    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,

    /// Print the figures of one interval, and exit
    #[arg(long)]
    once: bool,
}

impl Top {
    /// Reads the metrics, and shows them until it is ended.
    pub(crate) fn run(self) -> Result<(), Failure> {
        self.file.check_flag()?;
        let address = match self.metrics_address.clone() {
            Some(address) => address,
            None => self.file.read()?.metrics_address.ok_or_else(|| {
                Error::FailedPrecondition(
                    "the daemon's settings have no metrics_address: set it, for example to \
                     \"/run/lmdb-images/metrics.sock\", or give the address with --metrics-address"
                        .into(),
                )
            })?,
        };
        let endpoint = match address {
            Address::Unix(path) => Endpoint::Unix(path),
            Address::Tcp(address) => Endpoint::Tcp(address),
        };
        let interval = Duration::from_secs(self.interval);
        let mut readings = Readings::begin(endpoint)?;
        if self.once {
            std::thread::sleep(interval);
            let figures = readings.next()?;
            return print_once(&head(&readings.endpoint, &figures), &figures);
        }
        let terminal = ratatui::try_init()
            .map_err(|e| Error::Internal(format!("taking the terminal: {e}; --once needs none")))?;
        let shown = show(terminal, &mut readings, interval);
        ratatui::restore();
        Ok(shown?)
    }
}

/// The last reading.
struct Readings {
    endpoint: Endpoint,
    samples: Samples,
    at: Instant,
}

impl Readings {
    fn begin(endpoint: Endpoint) -> Result<Self> {
        let samples = block_on(scrape(&endpoint))?;
        Ok(Self { endpoint, samples, at: Instant::now() })
    }

    /// Figures since the last reading.
    fn next(&mut self) -> Result<Figures> {
        let samples = block_on(scrape(&self.endpoint))?;
        let now = Instant::now();
        let figures = between(&self.samples, &samples, now - self.at);
        (self.samples, self.at) = (samples, now);
        Ok(figures)
    }
}

fn show(mut terminal: DefaultTerminal, readings: &mut Readings, interval: Duration) -> Result<()> {
    let failed = |e: std::io::Error| Error::Internal(format!("the terminal: {e}"));
    let (mut figures, mut error) = (Figures::default(), None::<String>);
    let mut due = Instant::now() + interval.min(SECOND);
    loop {
        let stale = error.as_deref().map(|error| (error, readings.at.elapsed()));
        let head = head(&readings.endpoint, &figures);
        terminal.draw(|frame| draw(frame, &head, &figures, stale, interval)).map_err(failed)?;
        let left = due.saturating_duration_since(Instant::now());
        // The age of figures that are no longer read grows on the screen.
        let wait = if error.is_some() { left.min(SECOND) } else { left };
        if event::poll(wait).map_err(failed)? {
            if is_end(&event::read().map_err(failed)?) {
                return Ok(());
            }
            continue;
        }
        if wait < left {
            continue;
        }
        // A daemon that restarts is waited for.
        match readings.next() {
            Ok(found) => (figures, error) = (found, None),
            Err(e) => error = Some(e.message().to_owned()),
        }
        due = Instant::now() + interval;
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_interrupt =
        key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    key.kind == KeyEventKind::Press && (key.code == KeyCode::Char('q') || is_interrupt)
}

/// A count with its noun: `1 call`, `2 calls`.
fn counted(count: f64, one: &str, several: &str) -> String {
    let count = format!("{count:.0}");
    let noun = if count == "1" { one } else { several };
    format!("{count} {noun}")
}

/// The lines above the table.
fn head(endpoint: &Endpoint, figures: &Figures) -> Vec<String> {
    let count = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.0}"));
    let mut lines = vec![
        format!("lmdb-images at {endpoint}"),
        format!(
            "{}, {} under way, of them {} and {}",
            counted(figures.connections, "connection", "connections"),
            counted(figures.in_flight, "call", "calls"),
            counted(figures.watches, "watch", "watches"),
            counted(figures.subscriptions, "subscription", "subscriptions"),
        ),
        format!(
            "{}, change {}; {:.1} commits/s, p99 {}",
            figures.images.map_or("- images".into(), |images| counted(images, "image", "images")),
            count(figures.last_change),
            figures.commits,
            p99(figures.commit_p99, figures.commits),
        ),
    ];
    if let Some(following) = figures.following {
        let reads: Vec<_> = figures
            .reads
            .iter()
            .map(|(source, rate)| format!("{rate:.1}/s from {}", one_line(source)))
            .collect();
        let state = if following { "followed" } else { "NOT FOLLOWED" };
        lines.push(format!("containerd is {state}; reads: {}", reads.join(", ")));
    }
    lines
}

const METHOD_HEADS: [&str; 6] = ["METHOD", "BY", "CALLS/S", "FAILED/S", "UNDER WAY", "P99"];

fn method_cells(figures: &Figures) -> impl Iterator<Item = [String; 6]> {
    figures.rows.iter().map(|row| {
        [
            one_line(&row.method),
            one_line(&row.transport),
            format!("{:.1}", row.rate),
            format!("{:.1}", row.failed),
            format!("{:.0}", row.in_flight),
            p99(row.p99, row.rate),
        ]
    })
}

const CLIENT_HEADS: [&str; 3] = ["CLIENT", "METHOD", "CALLS/S"];

fn client_cells(figures: &Figures) -> impl Iterator<Item = [String; 3]> {
    figures
        .clients
        .iter()
        .map(|row| [one_line(&row.client), one_line(&row.method), format!("{:.1}", row.rate)])
}

/// A time, or a text that says that it is longer than the last bucket.
fn p99(time: Option<Duration>, rate: f64) -> String {
    match time {
        Some(time) => format!("{time:?}"),
        None if rate > 0.0 => "more".into(),
        None => "-".into(),
    }
}

/// Draws the screen. `stale` is why there are no newer figures, and the age of these.
fn draw(
    frame: &mut Frame<'_>,
    head: &[String],
    figures: &Figures,
    stale: Option<(&str, Duration)>,
    interval: Duration,
) {
    let width = usize::from(frame.area().width);
    let error = stale.map(|(error, age)| {
        let age = counted(age.as_secs_f64().floor(), "second", "seconds");
        [one_line(error), format!("These figures are {age} old:")]
    });
    let error = error.into_iter().flatten().flat_map(|line| wrapped(&line, width));
    let error: Vec<_> = error.collect();
    let head: Vec<_> = head.iter().flat_map(|line| wrapped(line, width)).collect();
    let every = counted(interval.as_secs_f64(), "second", "seconds");
    let keys = wrapped(&format!("press q to quit; read every {every}"), width);
    let height = |lines: &[String]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [alarm, above, methods, clients, below] = Layout::vertical([
        Constraint::Length(height(&error)),
        Constraint::Length(height(&head).saturating_add(1)),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(height(&keys)),
    ])
    .areas(frame.area());
    let style = if stale.is_some() { Style::new().dim() } else { Style::new() };
    frame.render_widget(Text::from(error.join("\n")).style(Style::new().bold()), alarm);
    frame.render_widget(Text::from(head.join("\n")).style(style), above);
    let widths = [20, 6, 10, 10, 10, 12];
    draw_table(frame, methods, METHOD_HEADS, widths, method_cells(figures), style);
    draw_table(frame, clients, CLIENT_HEADS, [20, 30, 10], client_cells(figures), style);
    frame.render_widget(Text::from(keys.join("\n")).style(Style::new().reversed()), below);
}

/// The lines of a text at a width: between words, or inside one that is longer than a line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let has_room = line.chars().count() + 1 + word.chars().count() <= width;
        if !line.is_empty() && !has_room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if line.chars().count() == width.max(1) {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

/// Draws a table whose columns have at least these widths.
fn draw_table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    heads: [&str; N],
    widths: [u16; N],
    cells: impl Iterator<Item = [String; N]>,
    style: Style,
) {
    let heads = TableRow::new(heads).style(Style::new().bold());
    let table = Table::new(cells.map(TableRow::new), widths.map(Constraint::Min))
        .header(heads)
        .style(style);
    frame.render_widget(table, area);
}

fn print_once(head: &[String], figures: &Figures) -> Result<(), Failure> {
    print(|out| {
        for line in head {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
        table(out, &METHOD_HEADS.join("\t"), |rows| {
            method_cells(figures).try_for_each(|cells| writeln!(rows, "{}", cells.join("\t")))
        })?;
        writeln!(out)?;
        table(out, &CLIENT_HEADS.join("\t"), |rows| {
            client_cells(figures).try_for_each(|cells| writeln!(rows, "{}", cells.join("\t")))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::top::{ClientRow, Row};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_has_the_figures_and_no_control_character() {
        let row = Row {
            method: "Images/Get\u{1b}[31m".into(),
            transport: "grpc".into(),
            rate: 12.34,
            failed: 0.0,
            in_flight: 2.0,
            p99: Some(Duration::from_millis(5)),
        };
        let client =
            ClientRow { client: "ctr\u{1b}[31m".into(), method: "Images/Get".into(), rate: 7.89 };
        let figures = Figures {
            rows: vec![row],
            clients: vec![client],
            in_flight: 1.0,
            watches: 4.0,
            connections: 3.0,
            following: Some(false),
            reads: vec![("files".into(), 2.0)],
            ..Figures::default()
        };
        let screen = screen(80, &figures, None);
        for part in [
            "/run/m.sock",
            "3 connections, 1 call under way, of them 4 watches and 0 subscriptions",
            "NOT FOLLOWED; reads: 2.0/s from files",
            "12.3",
            "5ms",
            "ctr",
            "7.9",
            "press q to quit; read every 2 seconds",
        ] {
            assert!(screen.contains(part), "{part} is not in {screen}");
        }
        assert!(!screen.contains('\u{1b}'), "{screen}");
    }

    /// The text of a screen of this width.
    fn screen(width: u16, figures: &Figures, stale: Option<(&str, Duration)>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 16)).unwrap();
        let head = head(&Endpoint::Unix("/run/m.sock".into()), figures);
        let interval = Duration::from_secs(2);
        terminal.draw(|frame| draw(frame, &head, figures, stale, interval)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn figures_that_are_no_longer_read_have_an_age() {
        let stale = Some(("gone\nforged", Duration::from_millis(7900)));
        let screen = screen(80, &Figures::default(), stale);
        assert!(screen.contains("gone\\nforged"), "{screen}");
        assert!(screen.contains("These figures are 7 seconds old:"), "{screen}");
        assert!(!screen.contains("containerd"), "{screen}");
    }

    #[test]
    fn a_narrow_screen_has_the_whole_head() {
        let figures = Figures { images: Some(1.0), ..Figures::default() };
        let screen = screen(30, &figures, Some(("connect /run/m.sock: none", SECOND)));
        for part in ["These figures are 1 second", "\"subscriptions ", "1 image,", "p99 -"] {
            assert!(screen.contains(part), "{part} is not in {screen}");
        }
        assert_eq!(wrapped("/a/long/path is", 6), ["/a/lon", "g/path", "is"]);
    }
}

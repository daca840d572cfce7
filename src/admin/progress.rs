//! Progress of a command: one line on a terminal, no output elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows a growing count of `what`.
pub fn counting(what: &str) -> ProgressBar {
    line(&format!("{{spinner}} {{pos}} {what}, {{per_sec}}  {{msg}}"))
}

/// Shows `what` and the elapsed time.
pub fn lasting(what: &str) -> ProgressBar {
    let progress = line(&format!("{{spinner}} {what}, {{elapsed}}"));
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

/// Shows how many of `total` are done.
pub fn of(what: &str, total: u64) -> ProgressBar {
    let progress =
        line(&format!("{{spinner}} {{pos}} of {{len}} {what}, {{per_sec}}, {{eta}} left  {{msg}}"));
    progress.set_length(total);
    progress
}

/// Shows how many of `total` bytes are done.
pub fn bytes(what: &str, total: u64) -> ProgressBar {
    let template = "{spinner} {bytes} of {total_bytes} ";
    let progress = line(&format!("{template}{what}, {{bytes_per_sec}}, {{eta}} left"));
    progress.set_length(total);
    progress
}

fn line(template: &str) -> ProgressBar {
    let progress = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress
}

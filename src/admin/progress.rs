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

fn line(template: &str) -> ProgressBar {
    let progress = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress
}

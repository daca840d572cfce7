//! A line on the terminal that says how far a command is; nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that counts `what`.
pub fn counting(what: &str) -> ProgressBar {
    line(&format!("{{spinner}} {{pos}} {what}, {{per_sec}}  {{msg}}"))
}

/// A line that says `what` for as long as it lasts.
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

//! Shows the progress of a command as one line, if standard error is a terminal. Else it prints nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows a growing count, followed by `what`: what is counted.
pub(crate) fn counter(what: &str) -> ProgressBar {
    line(&format!("{{spinner}} {{pos}} {what}, {{per_sec}}  {{msg}}"))
}

/// Shows `what`, the name of the work, and the elapsed time.
pub(crate) fn timer(what: &str) -> ProgressBar {
    let progress = line(&format!("{{spinner}} {what}, {{elapsed}}"));
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

/// Shows how many of `total` items are done. `what` names the items.
pub(crate) fn bar(what: &str, total: u64) -> ProgressBar {
    let progress =
        line(&format!("{{spinner}} {{pos}} of {{len}} {what}, {{per_sec}}, {{eta}} left  {{msg}}"));
    progress.set_length(total);
    progress
}

/// Shows how many of `total` bytes are done, with the speed and the remaining time. `what` follows the
/// numbers.
pub(crate) fn byte_bar(what: &str, total: u64) -> ProgressBar {
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

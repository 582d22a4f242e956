//! A moving line on standard error for who waits for a long command; nothing when no person is watching.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Counts rows.
pub(super) fn rows(done: &str) -> ProgressBar {
    line(&format!("{{spinner}} {{human_pos}} rows {done}, {{per_sec}}, {{elapsed}}"))
}

/// Counts bytes: of what is read or written through [`ProgressBar::wrap_read`] or [`ProgressBar::wrap_write`].
pub(super) fn bytes(done: &str) -> ProgressBar {
    line(&format!("{{spinner}} {{bytes}} {done}, {{bytes_per_sec}}, {{elapsed}}"))
}

/// Counts steps towards a known number.
pub(super) fn steps(done: &str, of: u64) -> ProgressBar {
    let bar = line(&format!("{{spinner}} {{human_pos}} of {{human_len}} {done}, {{elapsed}}"));
    bar.set_length(of);
    bar
}

fn line(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

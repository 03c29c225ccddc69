//! Progress bars on stderr, for people only.

use std::fmt::Display;
use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::time::Duration;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// The bars of one command; hidden unless stderr is a terminal and nobody asked for quiet.
#[derive(Clone)]
pub(crate) struct Progress {
    bars: MultiProgress,
    quiet: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        let visible = !quiet && io::stderr().is_terminal();
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Progress { bars: MultiProgress::with_draw_target(target), quiet }
    }

    fn add(&self, what: &str, total: Option<u64>, figures: &str) -> Bar {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = match total {
            Some(_) => format!("{{prefix}} [{{bar:30}}] {figures}, {{eta}} left"),
            None => format!("{{spinner}} {{prefix}} {figures}, {{elapsed}}"),
        };
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▌░");
        let bar = self.bars.add(bar.with_style(style).with_prefix(what.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, waiting: 0 }
    }

    /// A bar that counts entries.
    pub(crate) fn entries(&self, what: &str, total: Option<u64>) -> Bar {
        let total_figure = if total.is_some() { "/{human_len}" } else { "" };
        self.add(what, total, &format!("{{human_pos}}{total_figure} ({{per_sec}})"))
    }

    /// A bar that counts bytes.
    pub(crate) fn bytes(&self, what: &str, total: Option<u64>) -> Bar {
        let total_figure = if total.is_some() { "/{binary_total_bytes}" } else { "" };
        self.add(
            what,
            total,
            &format!("{{binary_bytes}}{total_figure} ({{binary_bytes_per_sec}}) {{msg}}"),
        )
    }

    /// Something of unknown length.
    pub(crate) fn wait(&self, what: &str) -> Bar {
        self.add(what, None, "{msg}")
    }

    /// A remark on stderr, unless quiet.
    pub(crate) fn note(&self, line: impl Display) {
        if !self.quiet {
            // A remark that cannot be shown is no reason to fail.
            self.bars.suspend(|| {
                let _ = writeln!(io::stderr(), "{line}");
            });
        }
    }

    /// A line on stdout between the bars.
    pub(crate) fn line(&self, line: impl Display) -> io::Result<()> {
        self.bars.suspend(|| writeln!(io::stdout().lock(), "{line}"))
    }
}

/// One bar; vanishes when it is dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    waiting: u64,
}

impl Bar {
    /// Counts one. The bar itself is touched only now and then: that costs more than a read.
    pub(crate) fn tick(&mut self) {
        self.waiting += 1;
        if self.waiting == 1024 {
            self.bar.inc(self.waiting);
            self.waiting = 0;
        }
    }

    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    pub(crate) fn message(&self, message: String) {
        self.bar.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! The checks of the tour, told as they are made and again at the end to programs.

use std::io;
use std::io::Write as _;

use serde_json::Value;
use serde_json::json;

use crate::failure::Result;
use crate::picture;
use crate::progress::Progress;

/// One check.
#[derive(Debug)]
pub(crate) struct Check {
    what: String,
    ok: bool,
    detail: String,
}

impl Check {
    pub(crate) fn new(what: impl Into<String>, ok: bool, detail: impl Into<String>) -> Check {
        Check { what: what.into(), ok, detail: detail.into() }
    }

    /// Adds to the detail.
    pub(crate) fn add(&mut self, more: &str) {
        self.detail.push_str(", ");
        self.detail.push_str(more);
    }
}

/// What the tour has told so far.
pub(crate) struct Report<'a> {
    progress: &'a Progress,
    json: bool,
    plain: bool,
    checks: Vec<Value>,
    failed: usize,
    facts: serde_json::Map<String, Value>,
}

impl Report<'_> {
    pub(crate) fn new(progress: &Progress, json: bool) -> Report<'_> {
        let plain = picture::plain();
        let facts = serde_json::Map::new();
        Report { progress, json, plain, checks: Vec::new(), failed: 0, facts }
    }

    /// Tells people something.
    pub(crate) fn say(&self, line: impl std::fmt::Display) -> Result<()> {
        if !self.json {
            self.progress.line(line)?;
        }
        Ok(())
    }

    /// Tells programs something.
    pub(crate) fn fact(&mut self, name: &str, value: Value) {
        self.facts.insert(name.to_owned(), value);
    }

    pub(crate) fn check(&mut self, Check { what, ok, detail }: Check) -> Result<()> {
        let mark = match (ok, self.plain) {
            (true, false) => "✓",
            (false, false) => "✗",
            (true, true) => "ok  ",
            (false, true) => "FAIL",
        };
        self.say(format_args!("{mark} {what}\n    {detail}"))?;
        self.failed += usize::from(!ok);
        self.checks.push(json!({ "name": what, "ok": ok, "detail": detail }));
        Ok(())
    }

    /// Tells the outcome; false if any check failed.
    pub(crate) fn finish(mut self, seconds: f64) -> Result<bool> {
        let ok = self.failed == 0;
        if self.json {
            self.fact("seconds", seconds.into());
            self.fact("ok", ok.into());
            let checks = std::mem::take(&mut self.checks);
            self.fact("checks", checks.into());
            writeln!(io::stdout(), "{}", Value::Object(self.facts))?;
        } else if ok {
            self.say(format_args!("\nAll {} checks passed in {seconds:.1} s.", self.checks.len()))?;
        } else {
            self.say(format_args!("\n{} of {} checks FAILED.", self.failed, self.checks.len()))?;
        }
        Ok(ok)
    }
}

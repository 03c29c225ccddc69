//! The process in which one engine works: started by its parent, told what to do by a plan, it
//! answers with one line of JSON for each row.

use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::cgroup;
use crate::growth;
use crate::plan::Group;
use crate::plan::Plan;
use crate::rows;
use crate::rows::READY;
use crate::rows::Told;

/// In the worker: does what the plan says.
pub(crate) fn work(plan: &Plan) -> Result<()> {
    if let Some(cgroup) = &plan.cgroup {
        cgroup::join(cgroup)?;
    }
    match plan.group {
        Group::Growth => growth::work(plan),
        _ => rows::work(plan),
    }
}

/// In the parent: has a worker do the plan, and hands over each line as it comes.
pub(crate) fn spawn(plan: &Plan, mut each: impl FnMut(Told) -> Result<()>) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["worker", "--plan", &serde_json::to_string(plan)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let listened = listen(&mut child, &mut each);
    if listened.is_err() || plan.group == Group::ReopenFill {
        // SIGKILL: it gets to do nothing more. It may have ended already.
        drop(child.kill());
    }
    let status = child.wait()?;
    listened?;
    if !status.success() && plan.group != Group::ReopenFill {
        bail!("{} has ended with {status}", plan.engine.label());
    }
    Ok(())
}

fn listen(child: &mut Child, each: &mut dyn FnMut(Told) -> Result<()>) -> Result<()> {
    let out = child.stdout.take().context("no pipe from the worker")?;
    for line in BufReader::new(out).lines() {
        let told: Told = serde_json::from_str(&line?).context("what the worker said")?;
        if told.row == READY {
            return Ok(());
        }
        each(told)?;
    }
    Ok(())
}

/// A directory that is empty now and gone with its handle.
pub(crate) struct Scratch<'a>(&'a Path);

impl Scratch<'_> {
    pub(crate) fn new(path: &Path) -> Result<Scratch<'_>> {
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
        std::fs::create_dir_all(path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

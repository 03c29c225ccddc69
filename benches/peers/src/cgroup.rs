//! A memory cgroup for a worker, of either version, where this machine lets us make one.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;

/// A cgroup that is removed with its handle.
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// A new one that holds at most `bytes`, page cache and all; or why there can be none.
    pub(crate) fn create(bytes: u64) -> Result<Cgroup> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let dir = root.join(format!("esker-peers-{}", std::process::id()));
        fs::create_dir(&dir)
            .with_context(|| format!("no cgroup can be made in {}", root.display()))?;
        let cgroup = Cgroup { dir };
        let file = if root == v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(cgroup.dir.join(file), bytes.to_string())
            .context("the memory of a cgroup cannot be limited")?;
        Ok(cgroup)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("{} is left behind: {error}", self.dir.display());
        }
    }
}

/// Puts this process in the cgroup `dir`.
pub(crate) fn join(dir: &Path) -> Result<()> {
    let procs = dir.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string())
        .with_context(|| format!("joining {}", dir.display()))
}

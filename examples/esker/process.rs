//! What the operating system knows of this process.

/// A figure of `/proc/self/status`, in bytes; none where there is no such file.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Most memory this process has ever occupied, mapped files included.
pub(crate) fn peak_memory() -> Option<u64> {
    status("VmHWM")
}

/// Memory this process occupies that is no mapped file.
pub(crate) fn anonymous_memory() -> Option<u64> {
    status("RssAnon")
}

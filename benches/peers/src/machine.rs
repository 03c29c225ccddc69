//! What the figures were measured on.

use std::fs;
use std::process::Command;

/// The lock file says which versions were built.
const LOCK: &str = include_str!("../Cargo.lock");
const PACKAGES: [&str; 7] = ["esker", "rocksdb", "librocksdb-sys", "fjall", "heed", "redb", "sled"];

/// Date, machine and versions in one line.
pub(crate) fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpu, "model name").unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&memory, "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<f64>().ok());
    let gib = kib.map_or(0.0, |kib| kib / f64::from(1 << 20));
    let versions: Vec<String> = PACKAGES
        .iter()
        .filter_map(|package| Some(format!("{package} {}", version(LOCK, package)?)))
        .collect();
    format!(
        "{} · {cores} cores, {model}, {gib:.0} GiB · {} · {}",
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        output("uname", &["-sr"]),
        versions.join(", ")
    )
}

/// What stands behind the colon of the first line of this name.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// The version of a package in a lock file.
fn version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let after = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?.1;
    after.split('"').next()
}

pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        for package in PACKAGES {
            assert!(version(LOCK, package).is_some(), "{package}");
        }
        assert_eq!(version("name = \"a\"\nversion = \"1.2\"\n", "a"), Some("1.2"));
    }
}

//! What a program costs to build that opens a database, puts and gets: seconds of a cold
//! `cargo build --release`, sources already fetched, and the size of what comes out.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;

use crate::engines::Name;
use crate::machine;
use crate::results::BuildCost;
use crate::results::Results;
use crate::worker::Scratch;

/// Where esker is, and the lock file with the versions.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

const ESKER: &str = r#"fn main() {
    let db = esker::Db::open("db").unwrap();
    db.put("k", "v").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}
"#;

const FJALL: &str = r#"fn main() {
    let db = fjall::Database::builder("db").open().unwrap();
    let map = db.keyspace("default", fjall::KeyspaceCreateOptions::default).unwrap();
    map.insert("k", "v").unwrap();
    assert_eq!(&*map.get("k").unwrap().unwrap(), b"v");
}
"#;

const ROCKSDB: &str = r#"fn main() {
    let db = rocksdb::DB::open_default("db").unwrap();
    db.put("k", "v").unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), b"v");
}
"#;

/// The engines that the figure is asked for.
pub(crate) const ENGINES: [Name; 3] = [Name::Esker, Name::Fjall, Name::Rocksdb];

pub(crate) fn run(engines: &[Name], dir: &Path, out: &Path) -> Result<()> {
    let mut results = Results::read_or_new(out)?;
    results.runs.push(machine::describe());
    for &engine in engines.iter().filter(|engine| ENGINES.contains(engine)) {
        let cost = measure(engine, &dir.join("build").join(engine.label()))?;
        eprintln!("{}: {:.1} s", engine.label(), cost.seconds);
        results.build_costs.retain(|known| known.engine != engine);
        results.build_costs.push(cost);
        results.write(out)?;
    }
    Ok(())
}

fn measure(engine: Name, dir: &Path) -> Result<BuildCost> {
    let _scratch = Scratch::new(dir)?;
    let manifest = fs::read_to_string(Path::new(HERE).join("Cargo.toml"))?;
    let (dependency, program) = match engine {
        Name::Fjall => (dependency(&manifest, "fjall"), FJALL),
        Name::Rocksdb => (dependency(&manifest, "rocksdb"), ROCKSDB),
        _ => (format!("esker = {{ path = \"{HERE}/../..\" }}"), ESKER),
    };
    fs::create_dir(dir.join("src"))?;
    fs::write(dir.join("src/main.rs"), program)?;
    // The same versions as in the comparison; cargo drops the packages that are not needed.
    fs::copy(Path::new(HERE).join("Cargo.lock"), dir.join("Cargo.lock"))?;
    fs::write(
        dir.join("Cargo.toml"),
        format!(
            "[workspace]\n[package]\nname = \"program\"\nversion = \"0.0.0\"\n\
             edition = \"2024\"\n[dependencies]\n{dependency}\n"
        ),
    )?;
    cargo(dir, &["fetch"])?;
    let started = Instant::now();
    cargo(dir, &["build", "--release", "--offline"])?;
    let seconds = started.elapsed().as_secs_f64();
    let unstripped_bytes = fs::metadata(dir.join("target/release/program"))?.len();
    // Only links once more.
    fs::write(dir.join("src/main.rs"), format!("{program}\n"))?;
    cargo(dir, &["build", "--release", "--offline", "--config", "profile.release.strip=true"])?;
    let stripped_bytes = fs::metadata(dir.join("target/release/program"))?.len();
    Ok(BuildCost { engine, seconds, stripped_bytes, unstripped_bytes })
}

/// The line of a manifest that asks for a package.
fn dependency(manifest: &str, package: &str) -> String {
    let begins = format!("{package} = ");
    manifest.lines().find(|line| line.starts_with(&begins)).unwrap_or_default().to_owned()
}

fn cargo(dir: &Path, args: &[&str]) -> Result<()> {
    let target = dir.join("target");
    let status = Command::new("cargo")
        .args(args)
        .arg("--quiet")
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .status()?;
    ensure!(status.success(), "cargo {args:?} in {} has failed", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_those_of_the_comparison() {
        let manifest = fs::read_to_string(Path::new(HERE).join("Cargo.toml")).unwrap();
        for package in ["fjall", "rocksdb"] {
            assert!(dependency(&manifest, package).contains("version = \"="), "{package}");
        }
    }
}

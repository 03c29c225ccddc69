//! `get`, `put`, `delete`, `ttl`, `incr` and `cas`: commands on one key.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use esker::Add;
use esker::Clock as _;
use esker::Durability;
use esker::KeyspaceOptions;
use esker::Swap;
use esker::SystemClock;
use esker::Ttl;
use esker::WriteBatch;

use crate::cli::CasArgs;
use crate::cli::Global;
use crate::failure::Failure;
use crate::failure::Result;
use crate::text;

pub(crate) fn get(global: &Global, path: &Path, key: &[u8], raw: bool) -> Result<()> {
    let (db, keyspace) = global.open_keyspace_to_read(path)?;
    let value = keyspace.get(key)?;
    let Some(value) = value else {
        return Err(Failure::new(format!("there is no key {}", text::quote(key))));
    };
    let mut out = io::stdout().lock();
    if raw {
        out.write_all(&value)?;
    } else if global.json {
        let mut object = serde_json::Map::new();
        text::put_json(&mut object, "key", key);
        text::put_json(&mut object, "value", &value);
        serde_json::to_writer(&mut out, &object)?;
        writeln!(out)?;
    } else {
        let mut line = Vec::new();
        text::escape_into(&value, &mut line);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()?;
    db.close()?;
    Ok(())
}

pub(crate) fn put(
    global: &Global,
    path: &Path,
    key: &[u8],
    value: Option<Vec<u8>>,
    ttl: Option<Duration>,
    durability: Durability,
) -> Result<()> {
    let value = match value {
        Some(value) => value,
        None => read_value()?,
    };
    let (db, keyspace) = global.create_keyspace(path)?;
    let mut batch = WriteBatch::new();
    match ttl {
        Some(ttl) => batch.put_with_ttl(&keyspace, key, value, ttl),
        None => batch.put(&keyspace, key, value),
    };
    batch.durability(durability);
    db.write(batch)?;
    db.close()?;
    done(global)
}

/// All of standard input, but not endlessly.
fn read_value() -> Result<Vec<u8>> {
    const LIMIT: u64 = 1 << 30;
    let mut value = Vec::new();
    io::stdin()
        .lock()
        .take(LIMIT + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::io("read", "standard input", &error))?;
    if value.len() as u64 > LIMIT {
        return Err(Failure::new("standard input is longer than a value may be (1 GiB)"));
    }
    Ok(value)
}

pub(crate) fn delete(
    global: &Global,
    path: &Path,
    key: &[u8],
    durability: Durability,
) -> Result<()> {
    let (db, keyspace) = global.open_keyspace(path)?;
    let mut batch = WriteBatch::new();
    batch.delete(&keyspace, key).durability(durability);
    db.write(batch)?;
    db.close()?;
    done(global)
}

/// Sets how long a key lives from now on, if `to` says; then prints how long it does.
pub(crate) fn ttl(global: &Global, path: &Path, key: &[u8], to: Option<Duration>) -> Result<()> {
    let (db, keyspace) = match to {
        Some(_) => global.open_keyspace(path)?,
        None => global.open_keyspace_to_read(path)?,
    };
    if let Some(to) = to {
        let to_ms = u64::try_from(to.as_millis()).unwrap_or(u64::MAX);
        keyspace.expire_at(key, SystemClock.wall_ms().saturating_add(to_ms))?;
    }
    let Some(ttl) = keyspace.ttl(key)? else {
        return Err(Failure::new(format!("there is no key {}", text::quote(key))));
    };
    db.close()?;
    let mut out = io::stdout().lock();
    if global.json {
        let mut object = serde_json::Map::new();
        text::put_json(&mut object, "key", key);
        let ms = match ttl {
            Ttl::Forever => serde_json::Value::Null,
            Ttl::For(left) => (left.as_millis() as u64).into(),
        };
        object.insert("ttl_ms".to_owned(), ms);
        serde_json::to_writer(&mut out, &object)?;
        writeln!(out)?;
    } else {
        match ttl {
            Ttl::Forever => writeln!(out, "for ever")?,
            Ttl::For(left) => writeln!(out, "{:.3} s", left.as_secs_f64())?,
        }
    }
    Ok(())
}

pub(crate) fn incr(
    global: &Global,
    path: &Path,
    key: &[u8],
    (by, ttl): (i64, Option<Duration>),
    durability: Durability,
) -> Result<()> {
    let (db, _) = global.create_keyspace(path)?;
    let counters = KeyspaceOptions::new().merge_operator(Add).expiring(ttl.is_some());
    let keyspace = db.keyspace_with(&global.keyspace, counters)?;
    db.transact(|txn| {
        txn.durability(durability);
        match ttl {
            Some(ttl) if !txn.contains_key(&keyspace, key)? => {
                txn.put_with_ttl(&keyspace, key, by.to_le_bytes(), ttl)
            }
            _ => txn.merge(&keyspace, key, by.to_le_bytes()),
        }
    })?;
    let value = keyspace.get(key)?.and_then(|value| Add::value(&value)).unwrap_or_default();
    db.close()?;
    let mut out = io::stdout().lock();
    if global.json {
        let mut object = serde_json::Map::new();
        text::put_json(&mut object, "key", key);
        object.insert("value".to_owned(), value.into());
        serde_json::to_writer(&mut out, &object)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{value}")?;
    }
    Ok(())
}

pub(crate) fn cas(global: &Global, args: &CasArgs) -> Result<()> {
    let (db, keyspace) = global.create_keyspace(&args.db)?;
    let expected = args.expect.as_ref().map(|value| &value.0[..]);
    let new = args.value.as_ref().map(|value| &value.0[..]);
    let swap = keyspace.compare_and_swap(&args.key.0, expected, new)?;
    db.close()?;
    let Swap::Differs(current) = swap else { return done(global) };
    if global.json {
        let mut object = serde_json::Map::new();
        object.insert("ok".to_owned(), false.into());
        match &current {
            Some(value) => text::put_json(&mut object, "value", value),
            None => drop(object.insert("value".to_owned(), serde_json::Value::Null)),
        }
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &object)?;
        writeln!(out)?;
    }
    Err(Failure::new(match current {
        Some(value) => format!("the value is {}", text::quote(&value)),
        None => format!("there is no key {}", text::quote(&args.key.0)),
    }))
}

pub(crate) fn done(global: &Global) -> Result<()> {
    if global.json {
        writeln!(io::stdout(), "{{\"ok\":true}}")?;
    }
    Ok(())
}

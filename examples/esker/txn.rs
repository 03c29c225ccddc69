//! `txn`: a script of operations as one transaction.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;
use std::io::Write as _;
use std::path::Path;

use esker::Db;
use esker::Durability;
use esker::Isolation;
use esker::Keyspace;
use esker::Savepoint;
use esker::Transaction;

use crate::cli::Global;
use crate::cli::IsolationLevel;
use crate::failure::Failure;
use crate::failure::Result;
use crate::input::Format;
use crate::output::RecordWriter;
use crate::text;

/// A script that is running.
struct Script<'a> {
    global: &'a Global,
    db: &'a Db,
    txn: &'a Transaction,
    keyspace: Keyspace,
    savepoints: BTreeMap<Vec<u8>, Savepoint>,
    /// What it prints if all goes well.
    printed: Vec<u8>,
}

pub(crate) fn run(
    global: &Global,
    path: &Path,
    isolation: IsolationLevel,
    durability: Durability,
) -> Result<()> {
    let (db, keyspace) = global.create_keyspace(path)?;
    let txn = db.transaction_with(match isolation {
        IsolationLevel::Serializable => Isolation::Serializable,
        IsolationLevel::Snapshot => Isolation::Snapshot,
        IsolationLevel::ReadCommitted => Isolation::ReadCommitted,
    });
    txn.durability(durability);
    let mut script = Script {
        global,
        db: &db,
        txn: &txn,
        keyspace,
        savepoints: BTreeMap::new(),
        printed: Vec::new(),
    };
    for (number, line) in io::stdin().lock().split(b'\n').enumerate() {
        let line = line.map_err(|error| Failure::io("read", "standard input", &error))?;
        script.run_line(&line).map_err(|failure| match failure {
            Failure::Message(what) => {
                Failure::new(format!("line {}: {what}; nothing was written", number + 1))
            }
            other => other,
        })?;
    }
    let printed = script.printed;
    let written = txn.len();
    txn.commit()?;
    db.close()?;
    let mut out = io::stdout().lock();
    out.write_all(&printed)?;
    if global.json {
        writeln!(out, "{{\"ok\":true,\"written\":{written}}}")?;
    }
    out.flush()?;
    Ok(())
}

impl Script<'_> {
    fn run_line(&mut self, line: &[u8]) -> Result<()> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let mut parts = Vec::new();
        for part in line.split(|byte| *byte == b'\t') {
            let mut bytes = Vec::new();
            text::unescape_into(part, &mut bytes).map_err(Failure::new)?;
            parts.push(bytes);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        match parts[..] {
            [b"get", key] => self.get(key),
            [b"scan", prefix] => self.scan(prefix),
            [b"put", key, value] => Ok(self.txn.put(&self.keyspace, key, value)?),
            [b"delete", key] => Ok(self.txn.delete(&self.keyspace, key)?),
            [b"delete-range", from, to] => Ok(self.txn.delete_range(&self.keyspace, from..to)?),
            [b"expect", key] => self.expect(key, None),
            [b"expect", key, value] => self.expect(key, Some(value)),
            [b"use", name] => self.go_to(name),
            [b"savepoint", name] => {
                self.savepoints.insert(name.to_vec(), self.txn.savepoint());
                Ok(())
            }
            [b"rollback", name] => self.roll_back(name),
            _ => Err(Failure::new(format!(
                "{} is no operation: see `esker help txn`",
                text::quote(line)
            ))),
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<()> {
        match self.txn.get(&self.keyspace, key)? {
            Some(value) => self.print(&[(key, &value)]),
            None if self.global.json => {
                let mut object = serde_json::Map::new();
                text::put_json(&mut object, "key", key);
                object.insert("value".to_owned(), serde_json::Value::Null);
                serde_json::to_writer(&mut self.printed, &object)?;
                self.printed.push(b'\n');
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn scan(&mut self, prefix: &[u8]) -> Result<()> {
        for entry in self.txn.prefix(&self.keyspace, prefix) {
            let (key, value) = entry?;
            self.print(&[(&key, &value)])?;
        }
        Ok(())
    }

    fn print(&mut self, entries: &[(&[u8], &[u8])]) -> Result<()> {
        let format = if self.global.json { Format::Jsonl } else { Format::Tsv };
        let mut writer = RecordWriter::new(&mut self.printed, format);
        for (key, value) in entries {
            writer.write(key, value)?;
        }
        Ok(())
    }

    fn expect(&self, key: &[u8], expected: Option<&[u8]>) -> Result<()> {
        let found = self.txn.get(&self.keyspace, key)?;
        if found.as_deref() == expected {
            return Ok(());
        }
        let key = text::quote(key);
        Err(Failure::new(match found {
            Some(value) => format!("the value of {key} is {}", text::quote(&value)),
            None => format!("there is no key {key}"),
        }))
    }

    fn go_to(&mut self, name: &[u8]) -> Result<()> {
        let name = std::str::from_utf8(name)
            .map_err(|_| Failure::new("the name of a keyspace is text"))?;
        self.keyspace = self.db.keyspace(name)?;
        Ok(())
    }

    fn roll_back(&self, name: &[u8]) -> Result<()> {
        let Some(savepoint) = self.savepoints.get(name) else {
            return Err(Failure::new(format!("there is no savepoint {}", text::quote(name))));
        };
        Ok(self.txn.rollback_to(*savepoint)?)
    }
}

//! Transfers between accounts, in transactions: `cargo run --release --example accounts`.
//!
//! Four threads move money at random; each transfer reads two balances and writes both, and a fee is
//! booked in another keyspace. A fifth adds everything up again and again: the sum never changes. At
//! the end it prints how many transfers were made and how often one had to be tried again.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Options;
use esker::Transaction;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ACCOUNTS: u64 = 100;
const BALANCE: u64 = 1_000;
const THREADS: u64 = 4;
const DURATION: Duration = Duration::from_millis(500);

struct Bank {
    db: Db,
    accounts: Keyspace,
    fees: Keyspace,
}

/// Why a transfer was not made.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    NoSuchAccount,
    NotEnoughMoney,
}

fn amount(value: Option<esker::Value>) -> Option<u64> {
    value.map(|value| u64::from_be_bytes(value[..].try_into().expect("amounts have eight bytes")))
}

impl Bank {
    fn open(path: &std::path::Path) -> Result<Bank> {
        // A transfer that was acknowledged may be lost with the power here, but never half of it.
        let interval = Durability::Interval(Duration::from_millis(50));
        let db = Options::new().durability(interval).open(path)?;
        let (accounts, fees) = (db.keyspace("accounts")?, db.keyspace("fees")?);
        Ok(Bank { db, accounts, fees })
    }

    /// Moves `sum` and takes one unit as a fee. The closure runs again after a conflict, so it does
    /// nothing but read and write through the transaction.
    fn transfer(&self, from: u64, to: u64, sum: u64) -> Result<std::result::Result<(), Refused>> {
        Ok(self.db.transact(|txn| self.transfer_in(txn, from, to, sum))?)
    }

    fn transfer_in(
        &self,
        txn: &Transaction,
        from: u64,
        to: u64,
        sum: u64,
    ) -> esker::Result<std::result::Result<(), Refused>> {
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        let Some(mine) = amount(txn.get(&self.accounts, from)?) else {
            return Ok(Err(Refused::NoSuchAccount));
        };
        let Some(left) = mine.checked_sub(sum + 1) else {
            return Ok(Err(Refused::NotEnoughMoney));
        };
        let before = txn.savepoint();
        txn.put(&self.accounts, from, left.to_be_bytes())?;
        // After the write: a transfer to oneself finds what is left.
        let Some(theirs) = amount(txn.get(&self.accounts, to)?) else {
            txn.rollback_to(before)?;
            return Ok(Err(Refused::NoSuchAccount));
        };
        txn.put(&self.accounts, to, (theirs + sum).to_be_bytes())?;
        // One counter for all would make every two transfers conflict; one for each account does not.
        let fees = amount(txn.get(&self.fees, from)?).unwrap_or(0);
        txn.put(&self.fees, from, (fees + 1).to_be_bytes())?;
        Ok(Ok(()))
    }

    /// All money, as of one moment. It only reads: it never conflicts.
    fn total(&self) -> Result<u64> {
        let txn = self.db.transaction();
        let mut total = 0;
        for entry in txn.iter(&self.accounts).chain(txn.iter(&self.fees)) {
            total += amount(Some(entry?.1)).unwrap_or(0);
        }
        Ok(total)
    }
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bank = Bank::open(dir.path())?;
    bank.db.transact(|txn| {
        for account in 0..ACCOUNTS {
            txn.put(&bank.accounts, account.to_be_bytes(), BALANCE.to_be_bytes())?;
        }
        Ok(())
    })?;
    assert_eq!(bank.transfer(0, ACCOUNTS, 1)?, Err(Refused::NoSuchAccount));
    assert_eq!(bank.transfer(0, 1, 10 * BALANCE)?, Err(Refused::NotEnoughMoney));

    let (done, made, audits) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for thread in 0..THREADS {
            let (bank, done, made) = (&bank, &done, &made);
            threads.push(scope.spawn(move || -> Result<()> {
                let mut random = thread + 1;
                while !done.load(Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let (from, to) = (random % ACCOUNTS, random / 1_000 % ACCOUNTS);
                    if bank.transfer(from, to, random / 1_000_000 % 20)?.is_ok() {
                        made.fetch_add(1, Relaxed);
                    }
                }
                Ok(())
            }));
        }
        threads.push(scope.spawn(|| -> Result<()> {
            while !done.load(Relaxed) {
                assert_eq!(bank.total()?, ACCOUNTS * BALANCE);
                audits.fetch_add(1, Relaxed);
            }
            Ok(())
        }));
        std::thread::sleep(DURATION);
        done.store(true, Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;
    assert_eq!(bank.total()?, ACCOUNTS * BALANCE);
    let conflicts = bank.db.stats().transactions.conflicts;
    let rate = made.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
    writeln!(
        std::io::stdout(),
        "{} transfers, {rate:.0} a second, {conflicts} tried again; audited {} times: always {}",
        made.load(Relaxed),
        audits.load(Relaxed),
        ACCOUNTS * BALANCE
    )?;
    bank.db.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn transfers_keep_the_sum() {
        super::main().unwrap();
    }
}

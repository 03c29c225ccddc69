//! A secondary index that is never out of step: `cargo run --release --example secondary_index`.
//!
//! Users are kept by number, and found by email and by city. The index by email is unique: two who
//! register the same address at once are told apart by their transactions, which read that it is free.
//! The index by city is a range of keys `city \0 number`. Each change of a user changes both indexes
//! in the same transaction.

use std::io::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use esker::Db;
use esker::Keyspace;
use esker::Transaction;
use esker::Update;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    email: String,
    city: String,
}

impl User {
    fn new(email: impl Into<String>, city: impl Into<String>) -> User {
        User { email: email.into(), city: city.into() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        format!("{}\n{}", self.email, self.city).into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> User {
        let text = std::str::from_utf8(bytes).expect("users are text");
        let (email, city) = text.split_once('\n').expect("users have two lines");
        User::new(email, city)
    }
}

struct Users {
    db: Db,
    by_id: Keyspace,
    by_email: Keyspace,
    by_city: Keyspace,
}

fn city_key(city: &str, id: u64) -> Vec<u8> {
    [city.as_bytes(), &[0], &id.to_be_bytes()].concat()
}

impl Users {
    fn open(path: &std::path::Path) -> Result<Users> {
        let db = esker::Options::new().durability(esker::Durability::Os).open(path)?;
        let keyspace = |name| db.keyspace(name);
        let (by_id, by_email, by_city) =
            (keyspace("users")?, keyspace("users by email")?, keyspace("users by city")?);
        Ok(Users { db, by_id, by_email, by_city })
    }

    /// The next number: a counter that no two callers get the same value of.
    fn next_id(&self) -> Result<u64> {
        let number = |value: Option<&[u8]>| {
            value.map_or(0, |value| u64::from_be_bytes(value.try_into().expect("eight bytes")))
        };
        let before = self
            .db
            .fetch_update("next user", |id| Update::Put((number(id) + 1).to_be_bytes().to_vec()))?;
        Ok(number(before.as_deref()))
    }

    /// The number of the new user; `None` if the email is taken.
    fn register(&self, user: &User) -> Result<Option<u64>> {
        let id = self.next_id()?;
        let registered = self.db.transact(|txn| {
            if txn.contains_key(&self.by_email, &user.email)? {
                return Ok(false);
            }
            self.put(txn, id, user)?;
            Ok(true)
        })?;
        Ok(registered.then_some(id))
    }

    /// Moves a user to another city; false if there is no such user.
    fn move_to(&self, id: u64, city: &str) -> Result<bool> {
        Ok(self.db.transact(|txn| {
            let Some(user) = txn.get(&self.by_id, id.to_be_bytes())? else { return Ok(false) };
            let user = User::from_bytes(&user);
            txn.delete(&self.by_city, city_key(&user.city, id))?;
            self.put(txn, id, &User::new(user.email, city))?;
            Ok(true)
        })?)
    }

    fn remove(&self, id: u64) -> Result<()> {
        Ok(self.db.transact(|txn| {
            let Some(user) = txn.get(&self.by_id, id.to_be_bytes())? else { return Ok(()) };
            let user = User::from_bytes(&user);
            txn.delete(&self.by_id, id.to_be_bytes())?;
            txn.delete(&self.by_email, user.email)?;
            txn.delete(&self.by_city, city_key(&user.city, id))
        })?)
    }

    fn put(&self, txn: &Transaction, id: u64, user: &User) -> esker::Result<()> {
        txn.put(&self.by_id, id.to_be_bytes(), user.to_bytes())?;
        txn.put(&self.by_email, &user.email, id.to_be_bytes())?;
        txn.put(&self.by_city, city_key(&user.city, id), [])
    }

    /// All users of a city, as of one moment.
    fn in_city(&self, city: &str) -> Result<Vec<User>> {
        let snapshot = self.db.snapshot();
        let mut users = Vec::new();
        for entry in snapshot.keyspace(&self.by_city).prefix([city.as_bytes(), &[0]].concat()) {
            let (key, _) = entry?;
            let id = &key[city.len() + 1..];
            let user = snapshot.keyspace(&self.by_id).get(id)?;
            users.push(User::from_bytes(&user.expect("the index names users that exist")));
        }
        Ok(users)
    }

    /// Says each index of each user what the user says?
    fn check(&self) -> Result<u64> {
        let snapshot = self.db.snapshot();
        let (by_email, by_city) =
            (snapshot.keyspace(&self.by_email), snapshot.keyspace(&self.by_city));
        let mut users = 0;
        for entry in &snapshot.keyspace(&self.by_id) {
            let (id, user) = entry?;
            let user = User::from_bytes(&user);
            assert_eq!(by_email.get(&user.email)?.expect("each email is indexed"), id);
            let number = u64::from_be_bytes(id[..].try_into()?);
            assert!(by_city.contains_key(city_key(&user.city, number))?);
            users += 1;
        }
        assert_eq!((by_email.iter().count(), by_city.iter().count()), (users, users));
        Ok(users as u64)
    }
}

fn main() -> Result<()> {
    const THREADS: u64 = 4;
    const EMAILS: u64 = 300;
    let cities = ["Kiruna", "Lund", "Umeå", "Visby"];
    let dir = tempfile::tempdir()?;
    let users = Users::open(dir.path())?;
    let (registered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (users, registered, refused) = (&users, &registered, &refused);
                scope.spawn(move || -> Result<()> {
                    // All threads want the same emails.
                    for email in 0..EMAILS {
                        let city = cities[(email + thread) as usize % cities.len()];
                        let user = User::new(format!("user{email}@example.org"), city);
                        let Some(id) = users.register(&user)? else {
                            refused.fetch_add(1, Relaxed);
                            continue;
                        };
                        registered.fetch_add(1, Relaxed);
                        if email % 3 == 0 {
                            users.move_to(id, "Lund")?;
                        }
                        if email % 10 == 9 {
                            users.remove(id)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;
    let there = users.check()?;
    let in_lund = users.in_city("Lund")?;
    assert!(in_lund.iter().all(|user| user.city == "Lund"));
    writeln!(
        std::io::stdout(),
        "{} registered, {} refused; {there} users are left, {} of them in Lund; all indexes agree",
        registered.load(Relaxed),
        refused.load(Relaxed),
        in_lund.len()
    )?;
    users.db.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn indexes_stay_in_step() {
        super::main().unwrap();
    }
}

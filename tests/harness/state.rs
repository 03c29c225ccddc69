//! What a database should hold: the states that a workload goes through, and which of them a
//! database is in.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use esker::Append;
use esker::Db;
use esker::Keyspace;
use esker::KeyspaceOptions;

/// The keyspaces that a workload knows.
pub(crate) const NAMES: [&str; 3] = ["default", "ks0", "ks1"];
/// From here on they have an operator that appends operands with commas.
pub(crate) const MERGING: usize = 1;
/// The one with values that expire, too.
pub(crate) const EXPIRING: usize = 2;

/// The keyspace, created if it is not there. Its larger values lie apart.
pub(crate) fn keyspace(db: &Db, index: usize) -> esker::Result<Keyspace> {
    let apart = KeyspaceOptions::new().separate_values([1000, 50, 150][index]);
    let options = match index {
        MERGING.. => apart.merge_operator(Append::new(",")).expiring(index == EXPIRING),
        _ => apart,
    };
    db.keyspace_with(NAMES[index], options)
}

/// After how many waits a value expires, if it does: it says so itself.
pub(crate) fn until_of(value: &[u8]) -> Option<u32> {
    let until = value.strip_prefix(b"until ")?.get(..6)?;
    std::str::from_utf8(until).ok()?.parse().ok()
}

/// What the operator makes of `old` and an operand.
pub(crate) fn append(old: Option<&[u8]>, operand: &[u8]) -> Vec<u8> {
    old.map_or_else(|| operand.to_vec(), |old| [old, operand].join(&b','))
}

/// A keyspace, as an index into [`NAMES`], and a key.
pub(crate) type Place = (usize, Arc<[u8]>);

/// Contents by keyspace and key. An empty keyspace is as good as none.
pub(crate) type State = BTreeMap<Place, Arc<[u8]>>;

/// A change of one state into the next.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Place, Arc<[u8]>),
    Delete(Place),
    /// From this place on to before this key.
    DeleteRange(Place, Arc<[u8]>),
    DropKeyspace(usize),
}

pub(crate) fn apply(state: &mut State, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(place, value) => drop(state.insert(place.clone(), value.clone())),
            Change::Delete(place) => drop(state.remove(place)),
            Change::DeleteRange((index, from), to) => {
                let is_outside = |key: &Arc<[u8]>| key < from || key >= to;
                state.retain(|(keyspace, key), _| keyspace != index || is_outside(key));
            }
            Change::DropKeyspace(name) => state.retain(|(keyspace, _), _| keyspace != name),
        }
    }
}

/// A history of states: the first one, and what was done since. States have numbers that rise by
/// one with each step.
#[derive(Clone, Default)]
pub(crate) struct History {
    first: usize,
    base: State,
    steps: Vec<Arc<[Change]>>,
    newest: State,
}

impl History {
    /// The number of the newest state.
    pub(crate) fn last(&self) -> usize {
        self.first + self.steps.len()
    }

    pub(crate) fn newest(&self) -> &State {
        &self.newest
    }

    /// All that ever was.
    pub(crate) fn values(&self) -> BTreeSet<(Place, Arc<[u8]>)> {
        let mut values: BTreeSet<_> =
            self.base.iter().map(|(place, value)| (place.clone(), value.clone())).collect();
        for change in self.steps.iter().flat_map(|changes| changes.iter()) {
            if let Change::Put(place, value) = change {
                values.insert((place.clone(), value.clone()));
            }
        }
        values
    }

    /// What expires after so many waits or fewer is gone from all states: readers judge by the clock.
    pub(crate) fn expire(&mut self, waits: u32) {
        let is_over = |(keyspace, _): &Place, value: &[u8]| {
            *keyspace == EXPIRING && until_of(value).is_some_and(|until| until <= waits)
        };
        for state in [&mut self.base, &mut self.newest] {
            state.retain(|place, value| !is_over(place, value));
        }
        for step in &mut self.steps {
            let gone = |change: &Change| matches!(change, Change::Put(p, v) if is_over(p, v));
            if step.iter().any(gone) {
                let changes = step.iter().map(|change| match change {
                    Change::Put(place, value) if is_over(place, value) => {
                        Change::Delete(place.clone())
                    }
                    other => other.clone(),
                });
                *step = changes.collect();
            }
        }
    }

    pub(crate) fn push(&mut self, changes: Vec<Change>) {
        apply(&mut self.newest, &changes);
        self.steps.push(changes.into());
    }

    /// No state before `step` will be asked for.
    pub(crate) fn forget_before(&mut self, step: usize) {
        for changes in self.steps.drain(..step - self.first) {
            apply(&mut self.base, &changes);
        }
        self.first = step;
    }

    /// Back to state `step`: what followed did not happen.
    pub(crate) fn go_back_to(&mut self, step: usize) {
        if step < self.last() {
            self.steps.truncate(step - self.first);
            self.newest = self.base.clone();
            for changes in &self.steps {
                apply(&mut self.newest, changes);
            }
        }
    }

    /// The states from `low` to `high`, with their numbers.
    fn walk(&self, low: usize, high: usize, mut visit: impl FnMut(usize, &State)) {
        let mut state = self.base.clone();
        for step in self.first..=high {
            if step > self.first {
                apply(&mut state, &self.steps[step - self.first - 1]);
            }
            if step >= low {
                visit(step, &state);
            }
        }
    }

    /// State `step`.
    pub(crate) fn at(&self, step: usize) -> State {
        if step == self.last() {
            return self.newest.clone();
        }
        let mut state = self.base.clone();
        for changes in &self.steps[..step - self.first] {
            apply(&mut state, changes);
        }
        state
    }

    /// The largest j in `low..=high` whose state is `found`.
    pub(crate) fn find(&self, found: &State, low: usize, high: usize, what: &dyn Display) -> usize {
        assert!(self.first <= low && low <= high && high <= self.last(), "{what}: a wrong test");
        if high == self.last() && *found == self.newest {
            return high;
        }
        let mut equal = None;
        self.walk(low, high, |step, state| {
            if state == found {
                equal = Some(step);
            }
        });
        equal.unwrap_or_else(|| self.complain(found, low, high, what))
    }

    fn complain(&self, found: &State, low: usize, high: usize, what: &dyn Display) -> ! {
        let mut elsewhere = Vec::new();
        let mut nearest: Option<(usize, Vec<String>)> = None;
        self.walk(self.first, self.last(), |step, state| {
            if state == found {
                elsewhere.push(step);
            }
            let difference = difference(found, state);
            let best = nearest.as_ref().map_or(usize::MAX, |(_, best)| best.len());
            if (low..=high).contains(&step) && difference.len() <= best {
                nearest = Some((step, difference));
            }
        });
        let (near, difference) = nearest.unwrap_or_default();
        panic!(
            "{what}: no allowed state in {low}..={high}; equal to {elsewhere:?}; nearest is {near}, \
             which differs by\n{}",
            difference.join("\n")
        )
    }
}

/// Everything a database holds.
pub(crate) fn contents(db: &Db, what: &dyn Display) -> State {
    try_contents(db).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Everything a database holds, if it can be read.
pub(crate) fn try_contents(db: &Db) -> esker::Result<State> {
    let mut state = State::new();
    for name in db.keyspaces() {
        let index = NAMES.iter().position(|known| **known == name);
        let index = index.unwrap_or_else(|| panic!("nobody created a keyspace {name:?}"));
        for entry in db.keyspace(&name)?.iter() {
            let (key, value) = entry?;
            let before = state.insert((index, Arc::from(&key[..])), Arc::from(&value[..]));
            assert!(before.is_none(), "a key came twice");
        }
    }
    Ok(state)
}

/// Line by line what is not as in the model.
pub(crate) fn difference(found: &State, model: &State) -> Vec<String> {
    let places: BTreeSet<_> = found.keys().chain(model.keys()).collect();
    let differ = places.into_iter().filter(|place| found.get(*place) != model.get(*place));
    let show = |value: Option<&Arc<[u8]>>| {
        value.map(|value| (value.len(), value[..value.len().min(20)].escape_ascii().to_string()))
    };
    let line = |place: &Place| {
        let (found, model) = (show(found.get(place)), show(model.get(place)));
        let key = place.1.escape_ascii();
        format!("  {}/{key}: found {found:?}, model {model:?}", NAMES[place.0])
    };
    differ.map(line).collect()
}

//! The directories of a [`MemFs`](super::MemFs): what is seen, what is durable, and the changes
//! between.
//!
//! Directories are never removed, so that a [`DirId`] is an index for ever. Their changes are in one
//! log, in order.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::fs::DirEntry;
use crate::fs::LockMode;
use crate::fs::mem::CrashMode;
use crate::fs::mem::file::File;
use crate::fs::mem::file::FileRef;
use crate::fs::mem::rng::Rng;

/// So many contents of removed files are remembered.
const STALE_MAX: usize = 4;

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirId(usize);

const ROOT: DirId = DirId(0);

#[derive(Clone, Debug)]
enum Node {
    File(FileRef),
    Dir(DirId),
}

impl Node {
    fn is(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::File(a), Node::File(b)) => Arc::ptr_eq(a, b),
            (Node::Dir(a), Node::Dir(b)) => a == b,
            _ => false,
        }
    }
}

type Entries = BTreeMap<Arc<str>, Node>;

#[derive(Clone, Default)]
struct Dir {
    seen: Entries,
    durable: Entries,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    dir: DirId,
    name: Arc<str>,
}

/// A change to directories. Each carries its node, so that it makes sense without earlier ones.
#[derive(Clone)]
enum Change {
    Link { at: Slot, node: Node },
    Unlink { at: Slot },
    Rename { from: Slot, to: Slot, node: Node },
}

impl Change {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let (first, second) = match self {
            Change::Link { at, .. } | Change::Unlink { at } => (at, None),
            Change::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// `side` chooses the entries that are seen or those that are durable.
    fn apply(&self, dirs: &mut [Dir], side: fn(&mut Dir) -> &mut Entries) {
        match self {
            Change::Link { at, node } => {
                side(&mut dirs[at.dir.0]).insert(Arc::clone(&at.name), node.clone());
            }
            Change::Unlink { at } => {
                side(&mut dirs[at.dir.0]).remove(&at.name);
            }
            Change::Rename { from, to, node } => {
                let source = side(&mut dirs[from.dir.0]);
                if source.get(&from.name).is_some_and(|old| old.is(node)) {
                    source.remove(&from.name);
                }
                side(&mut dirs[to.dir.0]).insert(Arc::clone(&to.name), node.clone());
            }
        }
    }
}

fn seen(dir: &mut Dir) -> &mut Entries {
    &mut dir.seen
}

fn durable(dir: &mut Dir) -> &mut Entries {
    &mut dir.durable
}

/// The whole file system.
pub(super) struct Tree {
    dirs: Vec<Dir>,
    /// Changes that are not durable, in order.
    log: Vec<Change>,
    /// With the number of readers, or 0 for a writer.
    locked: BTreeMap<DirId, usize>,
    /// Contents of files that were removed last, as they may lie in free blocks of a disk.
    stale: Vec<Arc<Vec<u8>>>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            dirs: vec![Dir::default()],
            log: Vec::new(),
            locked: BTreeMap::new(),
            stale: Vec::new(),
        }
    }
}

impl Tree {
    /// The names on the way from the root to `path`. There are no links, so `..` undoes a name; but
    /// as elsewhere, only that of a directory.
    fn names<'a>(&self, path: &'a Path) -> io::Result<Vec<&'a str>> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
                Component::ParentDir => {
                    self.walk_to_dir(&names)?;
                    names.pop();
                }
                Component::Normal(name) => {
                    names.push(name.to_str().ok_or(io::ErrorKind::InvalidFilename)?);
                }
            }
        }
        Ok(names)
    }

    fn walk(&self, names: &[&str]) -> io::Result<Node> {
        let mut node = Node::Dir(ROOT);
        for &name in names {
            let Node::Dir(dir) = node else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            let entry = self.dirs[dir.0].seen.get(name);
            node = entry.ok_or(io::ErrorKind::NotFound)?.clone();
        }
        Ok(node)
    }

    fn walk_to_dir(&self, names: &[&str]) -> io::Result<DirId> {
        match self.walk(names)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<DirId> {
        self.walk_to_dir(&self.names(path)?)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<FileRef> {
        match self.walk(&self.names(path)?)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Where `path` is or would be, and what is there.
    fn slot(&self, path: &Path) -> io::Result<(Slot, Option<Node>)> {
        let names = self.names(path)?;
        let (&name, parents) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.walk_to_dir(parents)?;
        let node = self.dirs[dir.0].seen.get(name).cloned();
        let name = Arc::from(name);
        Ok((Slot { dir, name }, node))
    }

    pub(super) fn is_dir(&self, path: &Path) -> io::Result<bool> {
        match self.dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            dir => dir.map(|_| true),
        }
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.walk(&self.names(path)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            node => node.map(|_| true),
        }
    }

    pub(super) fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let names = self.names(path)?;
        self.walk(&names)?;
        Ok(std::iter::once("/").chain(names).collect())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(path)?;
        let describe = |(name, node): (&Arc<str>, &Node)| match node {
            Node::File(file) => DirEntry::new(&**name, false, file.lock().seen().len() as u64),
            Node::Dir(_) => DirEntry::new(&**name, true, 0),
        };
        Ok(self.dirs[dir.0].seen.iter().map(describe).collect())
    }

    /// Locks a directory; `None` if somebody else's lock is in the way.
    pub(super) fn lock(&mut self, path: &Path, mode: LockMode) -> io::Result<Option<DirId>> {
        let dir = self.dir(path)?;
        let readers = match (mode, self.locked.get(&dir)) {
            (LockMode::Exclusive, None) => 0,
            (LockMode::Shared, None) => 1,
            (LockMode::Shared, Some(readers)) if *readers > 0 => readers + 1,
            _ => return Ok(None),
        };
        self.locked.insert(dir, readers);
        Ok(Some(dir))
    }

    pub(super) fn unlock(&mut self, dir: DirId) {
        match self.locked.get_mut(&dir) {
            Some(readers) if *readers > 1 => *readers -= 1,
            _ => {
                self.locked.remove(&dir);
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.dirs, seen);
        self.log.push(change);
    }

    fn link(&mut self, path: &Path, new: impl FnOnce(&mut Tree) -> Node) -> io::Result<Node> {
        let (at, existing) = self.slot(path)?;
        if existing.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = new(self);
        let result = node.clone();
        self.change(Change::Link { at, node });
        Ok(result)
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<FileRef> {
        let file = FileRef::default();
        self.link(path, |_| Node::File(Arc::clone(&file)))?;
        Ok(file)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.is_dir(path)? {
            return Ok(());
        }
        let new = |tree: &mut Tree| {
            tree.dirs.push(Dir::default());
            Node::Dir(DirId(tree.dirs.len() - 1))
        };
        self.link(path, new).map(drop)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.slot(path)? {
            (_, None) => Err(io::ErrorKind::NotFound.into()),
            (_, Some(Node::Dir(_))) => Err(io::ErrorKind::IsADirectory.into()),
            (at, Some(Node::File(file))) => {
                self.bury(&file);
                self.change(Change::Unlink { at });
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (below, above) = (self.names(to)?, self.names(from)?);
        if below.len() > above.len() && below.starts_with(&above) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (from, node) = self.slot(from)?;
        let node = node.ok_or(io::ErrorKind::NotFound)?;
        let (to, target) = self.slot(to)?;
        match (&node, &target) {
            (_, Some(target)) if node.is(target) => return Ok(()),
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir(_), Some(Node::Dir(_))) => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (Node::File(_), Some(Node::File(replaced))) => self.bury(replaced),
            (_, None) => {}
        }
        self.change(Change::Rename { from, to, node });
        Ok(())
    }

    fn bury(&mut self, file: &FileRef) {
        let content = Arc::clone(file.lock().seen());
        if content.is_empty() {
            return;
        }
        if self.stale.len() == STALE_MAX {
            self.stale.remove(0);
        }
        self.stale.push(content);
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        // A rename into this directory from another is atomic: it takes along what came before it
        // there.
        let mut dirs = BTreeSet::from([self.dir(path)?]);
        let mut synced = Vec::new();
        let mut pending = Vec::new();
        for change in self.log.drain(..).rev() {
            if change.slots().any(|slot| dirs.contains(&slot.dir)) {
                dirs.extend(change.slots().map(|slot| slot.dir));
                synced.push(change);
            } else {
                pending.push(change);
            }
        }
        for change in synced.into_iter().rev() {
            change.apply(&mut self.dirs, durable);
        }
        self.log.extend(pending.into_iter().rev());
        Ok(())
    }

    /// The tree after a crash.
    pub(super) fn crash(&self, mode: CrashMode, rng: &mut Rng) -> Tree {
        let mut copy = Copier { mode, rng, stale: &self.stale, copied: HashMap::new() };
        let (dirs, log) = if mode == CrashMode::KeepAll {
            let dirs = copy.dirs(&self.dirs, |dir| (&dir.seen, &dir.durable));
            let log = self.log.iter().map(|change| copy.change(change)).collect();
            (dirs, log)
        } else {
            let mut left = self.dirs.clone();
            for change in kept(&self.log, mode, copy.rng) {
                change.apply(&mut left, durable);
            }
            let dirs = copy.dirs(&left, |dir| (&dir.durable, &dir.durable));
            (dirs, Vec::new())
        };
        Tree { dirs, log, locked: BTreeMap::new(), stale: self.stale.clone() }
    }
}

/// The changes that a crash of the system keeps, in order.
fn kept<'a>(log: &'a [Change], mode: CrashMode, rng: &mut Rng) -> Vec<&'a Change> {
    match mode {
        CrashMode::KeepAll => log.iter().collect(),
        CrashMode::Strict => Vec::new(),
        CrashMode::Prefix => log[..rng.below(log.len() + 1)].iter().collect(),
        CrashMode::Subset => {
            // Without the earlier changes of its names a change could lose a durable file: of
            // "rename a to b, create a", the second alone.
            let mut needed = BTreeSet::new();
            let kept_eighths = rng.pick([1, 4, 7]);
            let mut kept = Vec::new();
            for change in log.iter().rev() {
                let required = change.slots().any(|slot| needed.contains(slot));
                if rng.chance(kept_eighths) || required {
                    needed.extend(change.slots());
                    kept.push(change);
                }
            }
            kept.reverse();
            kept
        }
    }
}

/// Copies nodes into another tree, each once.
struct Copier<'a> {
    mode: CrashMode,
    rng: &'a mut Rng,
    stale: &'a [Arc<Vec<u8>>],
    copied: HashMap<*const Mutex<File>, FileRef>,
}

impl Copier<'_> {
    fn node(&mut self, node: &Node) -> Node {
        match node {
            Node::Dir(dir) => Node::Dir(*dir),
            Node::File(file) => {
                let copied = self.copied.entry(Arc::as_ptr(file));
                let copy = copied.or_insert_with(|| {
                    let crashed = file.lock().crash(self.mode, self.rng, self.stale);
                    Arc::new(Mutex::new(crashed))
                });
                Node::File(Arc::clone(copy))
            }
        }
    }

    fn entries(&mut self, entries: &Entries) -> Entries {
        let copy = |(name, node): (&Arc<str>, &Node)| (Arc::clone(name), self.node(node));
        entries.iter().map(copy).collect()
    }

    fn dirs(&mut self, dirs: &[Dir], sides: fn(&Dir) -> (&Entries, &Entries)) -> Vec<Dir> {
        let copy = |dir: &Dir| {
            let (seen, durable) = sides(dir);
            Dir { seen: self.entries(seen), durable: self.entries(durable) }
        };
        dirs.iter().map(copy).collect()
    }

    fn change(&mut self, change: &Change) -> Change {
        let mut change = change.clone();
        match &mut change {
            Change::Link { node, .. } | Change::Rename { node, .. } => *node = self.node(node),
            Change::Unlink { .. } => {}
        }
        change
    }
}

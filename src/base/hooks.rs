//! What programs may give the engine to call: merge operators.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::base::operators;

/// What a [`MergeOperator`] returns. Any error does, also text: `Err("no number".into())`.
pub type MergeResult<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// How the operands that [`Keyspace::merge`](crate::Keyspace::merge) writes become values.
///
/// The engine calls it when a key is read, when files are written, and, if values of the keyspace
/// [expire](crate::KeyspaceOptions::expiring), when an operand is; on any thread, and as often as it
/// likes. Nobody but other merges of such a keyspace ever waits for it. It must not write to the
/// database. Results must depend on the arguments alone: for the same
/// operands in the same order the outcome must be the same, wherever the row of operands is cut.
///
/// *Failing.* An error, or a panic, changes nothing that is stored: reads of that key fail with
/// [`Error::Merge`](crate::Error::Merge), flushes and compactions keep its operands as they are, and
/// all other keys are untouched. A put or delete of the key mends it.
///
/// ```
/// use esker::{KeyspaceOptions, MergeOperator, MergeResult};
///
/// /// Keeps the longest of all that was merged.
/// struct Longest;
///
/// impl MergeOperator for Longest {
///     fn name(&self) -> &str {
///         "example.longest"
///     }
///
///     fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
///         let all = value.into_iter().chain(operands.iter().copied());
///         Ok(all.max_by_key(|bytes| bytes.len()).unwrap_or_default().to_vec())
///     }
///
///     fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
///         self.merge(key, None, operands).map(Some)
///     }
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let words = db.keyspace_with("words", KeyspaceOptions::new().merge_operator(Longest))?;
/// words.merge("en", "a")?;
/// words.merge("en", "notwithstanding")?;
/// words.merge("en", "the")?;
/// assert_eq!(words.get("en")?.unwrap(), "notwithstanding");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait MergeOperator: Send + Sync + 'static {
    /// What it is called for ever: stored with the keyspace, and compared whenever the database is
    /// opened. Give an operator that treats stored operands differently another name. Names that
    /// begin with `esker.` are taken.
    fn name(&self) -> &str;

    /// The value that `operands`, oldest first, make of `value` (`None`: there is none).
    ///
    /// # Errors
    /// Whatever stands in the way.
    fn merge(&self, key: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>>;

    /// One operand that has the effect of all `operands`, oldest first and at least two, on
    /// whatever value; `None` if there is no such thing (the default). With it a key that is merged
    /// into again and again keeps one operand in each file instead of all of them.
    ///
    /// # Errors
    /// As [`MergeOperator::merge`]; the operands then stay as they are.
    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        let _ = (key, operands);
        Ok(None)
    }
}

impl fmt::Debug for dyn MergeOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MergeOperator({:?})", self.name())
    }
}

/// The operators that a database was opened with.
#[derive(Clone, Debug, Default)]
pub(crate) struct MergeOperators(Vec<Arc<dyn MergeOperator>>);

impl MergeOperators {
    /// The last one of a name counts.
    pub(crate) fn add(&mut self, operator: Arc<dyn MergeOperator>) {
        self.0.push(operator);
    }

    /// The operator `name`: one of these or a built-in one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn MergeOperator>> {
        let given = self.0.iter().rev().find(|operator| operator.name() == name);
        given.cloned().or_else(|| operators::built_in(name))
    }
}

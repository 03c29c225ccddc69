//! The built-in merge operators. All of them are associative, exactly: it makes no difference which
//! operands were combined before they met the value.
//!
//! | name | value | operand |
//! |---|---|---|
//! | `esker.add` | `i64` | `i64`; or combined: `i128` sum, `i64` least and greatest result |
//! | `esker.max`, `esker.min` | any bytes | any bytes |
//! | `esker.append:` and the separator in hex | any bytes | any bytes |
//! | `esker.set` | `(varint length, bytes)*`, ascending, each once | the same, in any order |
//!
//! Integers are little-endian.
#![deny(clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::sync::Arc;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::hooks::MergeOperator;
use crate::base::hooks::MergeResult;

const ADD: &str = "esker.add";
const MAX: &str = "esker.max";
const MIN: &str = "esker.min";
const SET: &str = "esker.set";
const APPEND: &str = "esker.append:";

/// The built-in operator of this name.
pub(crate) fn built_in(name: &str) -> Option<Arc<dyn MergeOperator>> {
    Some(match name {
        ADD => Arc::new(Add),
        MAX => Arc::new(Max),
        MIN => Arc::new(Min),
        SET => Arc::new(SetUnion),
        _ => Arc::new(Append::new(from_hex(name.strip_prefix(APPEND)?)?)),
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(
        digits
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |n, digit| n << 4 | *digit) as u8)
            .collect(),
    )
}

/// A signed 64-bit counter: values and operands are `i64`, as
/// [`to_le_bytes`](i64::to_le_bytes) writes them; a missing value is 0. It *saturates*: each sum
/// that does not fit stays at `i64::MAX` or `i64::MIN`, exactly as if the operands had been added
/// one by one in their order, however they were combined on the way.
///
/// ```
/// use esker::{Add, KeyspaceOptions};
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let views = db.keyspace_with("views", KeyspaceOptions::new().merge_operator(Add))?;
/// views.merge("/index", 2_i64.to_le_bytes())?;
/// views.merge("/index", 40_i64.to_le_bytes())?;
/// assert_eq!(Add::value(&views.get("/index")?.unwrap()), Some(42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Add;

impl Add {
    /// The number that a stored value stands for; `None` if it is none.
    pub fn value(bytes: &[u8]) -> Option<i64> {
        bytes.try_into().ok().map(i64::from_le_bytes)
    }
}

/// `x` becomes `x + sum`, held between `least` and `greatest`. Additions that saturate are of this
/// form, and so are two of them in a row.
#[derive(Clone, Copy)]
struct Addition {
    sum: i128,
    least: i64,
    greatest: i64,
}

impl Addition {
    const NOTHING: Addition = Addition { sum: 0, least: i64::MIN, greatest: i64::MAX };

    fn decode(operand: &[u8]) -> MergeResult<Addition> {
        if let Some(sum) = Add::value(operand) {
            return Ok(Addition { sum: i128::from(sum), ..Addition::NOTHING });
        }
        let mut decoder = Decoder::new(operand);
        let mut next = || decoder.u64().map_err(|_| wrong_length(operand));
        let (low, high) = (next()?, next()?);
        let (least, greatest) = (next()?.cast_signed(), next()?.cast_signed());
        if operand.len() != 32 || least > greatest {
            return Err(wrong_length(operand));
        }
        let sum = (u128::from(high) << 64 | u128::from(low)).cast_signed();
        Ok(Addition { sum, least, greatest })
    }

    fn encode(self) -> Vec<u8> {
        let mut out = self.sum.to_le_bytes().to_vec();
        out.extend_from_slice(&self.least.to_le_bytes());
        out.extend_from_slice(&self.greatest.to_le_bytes());
        out
    }

    fn apply(self, x: i64) -> i64 {
        let sum = self.sum.saturating_add(i128::from(x));
        sum.clamp(i128::from(self.least), i128::from(self.greatest)) as i64
    }

    /// This one, then `next`.
    fn then(self, next: Addition) -> Addition {
        Addition {
            sum: self.sum.saturating_add(next.sum),
            least: next.apply(self.least),
            greatest: next.apply(self.greatest),
        }
    }

    fn all(operands: &[&[u8]]) -> MergeResult<Addition> {
        operands
            .iter()
            .try_fold(Addition::NOTHING, |sum, next| Ok(sum.then(Addition::decode(next)?)))
    }
}

fn wrong_length(bytes: &[u8]) -> Box<dyn std::error::Error + Send + Sync> {
    format!("a counter has 8 bytes, and this has {}", bytes.len()).into()
}

impl MergeOperator for Add {
    fn name(&self) -> &str {
        ADD
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let x = match value {
            Some(bytes) => Add::value(bytes).ok_or_else(|| wrong_length(bytes))?,
            None => 0,
        };
        Ok(Addition::all(operands)?.apply(x).to_le_bytes().to_vec())
    }

    fn combine(&self, _: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        Addition::all(operands).map(|sum| Some(sum.encode()))
    }
}

/// Keeps the greatest of the value and all operands, compared as bytes, as keys are: write numbers
/// big-endian.
#[derive(Clone, Copy, Debug, Default)]
pub struct Max;

/// Keeps the least of the value and all operands, compared as bytes, as keys are: write numbers
/// big-endian.
#[derive(Clone, Copy, Debug, Default)]
pub struct Min;

impl MergeOperator for Max {
    fn name(&self) -> &str {
        MAX
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let all = operands.iter().copied().chain(value);
        Ok(all.max().unwrap_or_default().to_vec())
    }

    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        self.merge(key, None, operands).map(Some)
    }
}

impl MergeOperator for Min {
    fn name(&self) -> &str {
        MIN
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let all = operands.iter().copied().chain(value);
        Ok(all.min().unwrap_or_default().to_vec())
    }

    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        self.merge(key, None, operands).map(Some)
    }
}

/// Appends operands to the value, with a separator between any two. The separator is a part of the
/// operator's name: another one is another operator.
///
/// ```
/// use esker::{Append, KeyspaceOptions};
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let tags = db.keyspace_with("tags", KeyspaceOptions::new().merge_operator(Append::new(",")))?;
/// tags.merge("post/1", "rust")?;
/// tags.merge("post/1", "storage")?;
/// assert_eq!(tags.get("post/1")?.unwrap(), "rust,storage");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Append {
    separator: Vec<u8>,
    name: String,
}

impl Append {
    /// With this between any two parts; it may be empty.
    pub fn new(separator: impl Into<Vec<u8>>) -> Append {
        let separator = separator.into();
        let mut name = APPEND.to_owned();
        for byte in &separator {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Append { separator, name }
    }
}

impl MergeOperator for Append {
    fn name(&self) -> &str {
        &self.name
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let parts: Vec<&[u8]> = value.into_iter().chain(operands.iter().copied()).collect();
        Ok(parts.join(self.separator.as_slice()))
    }

    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        self.merge(key, None, operands).map(Some)
    }
}

/// Keeps a set of byte strings: the union of the value and all operands, each of which is a set too,
/// as [`SetUnion::encode`] writes it.
///
/// ```
/// use esker::{KeyspaceOptions, SetUnion};
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let seen = db.keyspace_with("seen", KeyspaceOptions::new().merge_operator(SetUnion))?;
/// seen.merge("ada", SetUnion::encode(["lund", "umeå"]))?;
/// seen.merge("ada", SetUnion::encode(["lund"]))?;
/// let value = seen.get("ada")?.unwrap();
/// assert_eq!(SetUnion::decode(&value), Some(vec![&b"lund"[..], "umeå".as_bytes()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SetUnion;

impl SetUnion {
    /// The set of these members.
    pub fn encode<T: AsRef<[u8]>>(members: impl IntoIterator<Item = T>) -> Vec<u8> {
        let members: Vec<T> = members.into_iter().collect();
        encode_set(members.iter().map(AsRef::as_ref).collect())
    }

    /// The members of a set; `None` if these bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Vec<&[u8]>> {
        let mut members = Vec::new();
        decode_set(bytes, |member| members.push(member)).ok().map(|()| members)
    }
}

fn encode_set(mut members: Vec<&[u8]>) -> Vec<u8> {
    // They are sets behind each other, each in order, which this sort merges.
    members.sort();
    members.dedup();
    let mut out = Vec::new();
    members.iter().for_each(|member| put_bytes(&mut out, member));
    out
}

fn decode_set<'a>(bytes: &'a [u8], mut member: impl FnMut(&'a [u8])) -> Result<(), Malformed> {
    let mut decoder = Decoder::new(bytes);
    while !decoder.is_empty() {
        member(decoder.bytes()?);
    }
    Ok(())
}

impl MergeOperator for SetUnion {
    fn name(&self) -> &str {
        SET
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let mut members = Vec::new();
        for set in value.into_iter().chain(operands.iter().copied()) {
            let decoded = decode_set(set, |member| members.push(member));
            decoded.map_err(|_| "an operand or the value is no set")?;
        }
        Ok(encode_set(members))
    }

    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        self.merge(key, None, operands).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    /// Numbers that overflow when a few of them are added.
    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -3..3_i64, Just(i64::MAX), Just(i64::MIN), Just(i64::MAX - 1)]
    }

    /// Merges `operands` into `value`, combining whatever `cuts` tells to combine first.
    fn merge_in_parts(
        operator: &dyn MergeOperator,
        value: Option<&[u8]>,
        operands: &[Vec<u8>],
        cuts: &[usize],
    ) -> Vec<u8> {
        let mut operands = operands.to_vec();
        for cut in cuts {
            let from = cut % operands.len();
            let to = (from + 2 + cut / 7 % 3).min(operands.len());
            if to - from >= 2 {
                let part: Vec<&[u8]> = operands[from..to].iter().map(Vec::as_slice).collect();
                let combined = operator.combine(b"k", &part).unwrap().unwrap();
                operands.splice(from..to, [combined]);
            }
        }
        let operands: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
        operator.merge(b"k", value, &operands).unwrap()
    }

    proptest! {
        #[test]
        fn counters_saturate_step_by_step_however_operands_are_combined(
            value in prop::option::of(number()),
            numbers in prop::collection::vec(number(), 1..12),
            cuts: Vec<usize>,
        ) {
            let expected = numbers.iter().fold(value.unwrap_or(0), |x, n| x.saturating_add(*n));
            let operands: Vec<_> = numbers.iter().map(|n| n.to_le_bytes().to_vec()).collect();
            let value = value.map(i64::to_le_bytes);
            let value = value.as_ref().map(<[u8; 8]>::as_slice);
            let found = merge_in_parts(&Add, value, &operands, &cuts);
            prop_assert_eq!(Add::value(&found), Some(expected));
        }

        #[test]
        fn built_in_operators_are_associative(
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..6)),
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..9),
            separator in prop::collection::vec(any::<u8>(), 0..3),
            cuts: Vec<usize>,
        ) {
            let append = Append::new(separator);
            for operator in [&Max as &dyn MergeOperator, &Min, &append] {
                let whole = merge_in_parts(operator, value.as_deref(), &members, &[]);
                let found = merge_in_parts(operator, value.as_deref(), &members, &cuts);
                prop_assert_eq!(found, whole, "{}", operator.name());
                let found = built_in(operator.name()).unwrap();
                prop_assert_eq!(found.name(), operator.name());
            }
            let sets: Vec<_> = members.chunks(2).map(SetUnion::encode).collect();
            let value = value.map(|member| SetUnion::encode([member]));
            let whole = merge_in_parts(&SetUnion, value.as_deref(), &sets, &[]);
            prop_assert_eq!(merge_in_parts(&SetUnion, value.as_deref(), &sets, &cuts), whole);
        }

        #[test]
        fn any_bytes_merge_or_fail(
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            operands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
        ) {
            let operands: Vec<&[u8]> = operands.iter().map(Vec::as_slice).collect();
            for operator in [&Add as &dyn MergeOperator, &SetUnion] {
                let _ = operator.merge(b"k", value.as_deref(), &operands);
                let _ = operator.combine(b"k", &operands);
            }
        }
    }

    #[test]
    fn foreign_names_are_not_built_in() {
        for name in ["", "esker.addition", "esker.append", "esker.append:0", "esker.append:zz"] {
            assert!(built_in(name).is_none(), "{name}");
        }
        assert_eq!(built_in("esker.append:2c").unwrap().name(), Append::new(",").name());
    }
}

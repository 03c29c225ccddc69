//! Filters: a key that is in is never denied, whatever else is read is an answer or an error.

use esker::fuzz_api::filter_may_contain;

use super::input::Input;
use super::input::mix;

/// Keys, probes, bits per key, and raw bytes as a filter.
pub(crate) fn filter(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() { raw(&mut input) } else { built(&mut input) }
}

/// An answer or an error, and the same one each time.
fn raw(input: &mut Input<'_>) {
    let keys: Vec<Vec<u8>> = (0..input.below(16)).map(|_| input.key()).collect();
    let mut payload = input.rest().to_vec();
    if payload.len() > 65 {
        // Most lengths are impossible: go on with one that is not, too.
        let whole = payload.len() / 64 * 64 + 1;
        check_raw(&payload, &keys);
        payload.truncate(whole);
    }
    check_raw(&payload, &keys);
}

fn check_raw(payload: &[u8], keys: &[Vec<u8>]) {
    let possible = payload.len() > 64 && payload.len() % 64 == 1;
    for key in keys {
        let answer = filter_may_contain(payload, key);
        assert_eq!(answer.is_ok(), possible, "{} bytes: {answer:?}", payload.len());
        assert_eq!(answer, filter_may_contain(payload, key));
    }
}

fn built(input: &mut Input<'_>) {
    let bits = [1, 2, 5, 8, 10, 12, 15, 16, 20, 24, 40, 64][input.below(12)];
    let mut keys: Vec<Vec<u8>> = Vec::new();
    // Numbers from somewhere on, so that a small input makes a large filter.
    let (first, run) = (mix(u64::from(input.byte())), input.below(4096));
    let step = u64::from(input.byte()) | 1;
    keys.extend((0..run as u64).map(|n| first.wrapping_add(n * step).to_be_bytes().to_vec()));
    while !input.is_empty() {
        keys.push(input.key());
    }
    let payload = esker::fuzz_api::filter(keys.iter().map(Vec::as_slice), bits);
    for key in &keys {
        let answer = filter_may_contain(&payload, key);
        assert_eq!(answer, Ok(true), "{key:?} of {} keys, {bits} bits", keys.len());
    }
    if run > 1000 && keys.len() < run + run / 16 {
        check_rate(&payload, keys.len(), bits, step);
    }
}

/// False alarms are at most twice as frequent as the theory says, with room for chance.
fn check_rate(payload: &[u8], keys: usize, bits: u32, step: u64) {
    const PROBES: usize = 2000;
    let wrong = (0..PROBES as u64)
        .filter(|n| {
            let probe = [b"no such key ".as_slice(), &(n * step).to_le_bytes()].concat();
            filter_may_contain(payload, &probe) != Ok(false)
        })
        .count();
    let lines = ((payload.len() - 1) / 64) as f64;
    let expected = PROBES as f64 * rate(keys as f64 / lines, payload.last().copied());
    // Twice the expected number, and six deviations of a number that is small by nature.
    let most = 2.0 * expected + 6.0 * (2.0 * expected).sqrt() + 6.0;
    assert!(
        wrong as f64 <= most,
        "{wrong} false alarms of {PROBES}, {expected} expected, {bits} bits"
    );
}

/// The rate of false alarms of a blocked filter: the number of keys in a line of 512 bits is
/// Poisson; each sets `probes` bits.
fn rate(keys_per_line: f64, probes: Option<u8>) -> f64 {
    let probes = f64::from(probes.unwrap_or(1));
    let mut weight = (-keys_per_line).exp();
    let mut sum = 0.0;
    for keys in 1..2000 {
        weight *= keys_per_line / f64::from(keys);
        let set = 1.0 - (1.0 - 1.0 / 512.0_f64).powf(probes * f64::from(keys));
        sum += weight * set.powf(probes);
    }
    sum
}

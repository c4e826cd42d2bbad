//! Random changes of valid bytes, for tests in which code must survive whatever another machine sends.
//!
//! These tests have no coverage to guide them, unlike the targets in `tests/fuzz`: that crate is compiled with instrumentation,
//! and RocksDB with it would take as long again. They begin with bytes that are right, and change little.

use crate::random::Random;
use std::ops::Range;

/// The variable that says how many inputs each test makes. `scripts/fuzz` sets it.
const ROUNDS: &str = "STABLECHAT_FUZZ_ROUNDS";
/// The variable that says which inputs come first.
const FIRST: &str = "STABLECHAT_FUZZ_FIRST";

/// The numbers of the inputs that a test makes: as many as it says, and always the same ones, unless the environment says
/// otherwise.
pub fn inputs(default: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number(FIRST).unwrap_or(0);
    first..first + number(ROUNDS).unwrap_or(default)
}

/// Changes bytes at a few places. `others` are examples to take pieces of.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        let (from, to) = piece(random, bytes.len());
        let random_byte = random.below(256) as u8;
        match random.below(7) {
            0 => bytes.insert(from, random_byte),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => {
                let other = random.one_of(others);
                let (from, to) = piece(random, other.len());
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ if bytes.is_empty() => {}
            4 => bytes[from.min(to - 1)] ^= 1 << random.below(8),
            5 => bytes[from.min(to - 1)] = *random.one_of(&[0, 1, 0x17, 0x1b, 0x5f, 0x7f, 0x80, 0x9f, 0xf6, 0xff]),
            _ => bytes[from.min(to - 1)] = random_byte,
        }
    }
}

/// A random piece of so many bytes. Short ones are more likely. Empty only where there is nothing.
fn piece(random: &mut Random, length: usize) -> (usize, usize) {
    if length == 0 {
        return (0, 0);
    }
    let from = random.below(length);
    let longest = (length - from).min(1 << random.below(10));
    (from, from + 1 + random.below(longest))
}

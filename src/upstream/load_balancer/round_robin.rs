//! Weighted round robin: each item in turn, and as often as its weight says.
//!
//! Items of equal weight go round in a circle. Otherwise each has a deadline, one over its weight after the last, and the
//! earliest deadline goes first, which spreads the turns of a heavy item evenly.

use std::{cmp::Ordering, collections::BinaryHeap};

#[derive(Debug)]
pub(super) struct RoundRobin<T> {
    items: Vec<T>,
    turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Circle { next: usize },
    Deadlines(BinaryHeap<Entry>),
}

/// Ordered so that the earliest deadline is the greatest, and of those the first item.
#[derive(Debug)]
struct Entry {
    deadline: f64,
    interval: f64,
    item: usize,
}

impl<T> Default for RoundRobin<T> {
    fn default() -> RoundRobin<T> {
        RoundRobin { items: Vec::new(), turn: Turn::Circle { next: 0 } }
    }
}

impl<T> RoundRobin<T> {
    /// `seed` decides where the round begins, so that workers with different seeds do not move in step.
    pub(super) fn new(items: impl IntoIterator<Item = (u32, T)>, seed: u64) -> RoundRobin<T> {
        let (weights, items): (Vec<u32>, Vec<T>) = items.into_iter().unzip();
        let turn = if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            Turn::Circle { next: usize::try_from(seed % items.len().max(1) as u64).unwrap_or_default() }
        } else {
            Turn::Deadlines(weights.iter().enumerate().map(|(item, weight)| Entry::new(item, *weight, seed)).collect())
        };
        RoundRobin { items, turn }
    }

    /// The item whose turn it is.
    pub(super) fn next(&mut self) -> Option<&T> {
        let item = match &mut self.turn {
            Turn::Circle { next } => {
                let item = *next;
                *next = if item + 1 < self.items.len() { item + 1 } else { 0 };
                item
            }
            Turn::Deadlines(entries) => {
                let mut first = entries.peek_mut()?;
                first.deadline += first.interval;
                first.item
            }
        };
        self.items.get(item)
    }
}

impl Entry {
    /// The first deadline lies anywhere within the first interval.
    fn new(item: usize, weight: u32, seed: u64) -> Entry {
        let interval = 1.0 / f64::from(weight.max(1));
        Entry { deadline: interval * fraction(seed, item as u64), interval, item }
    }
}

/// A number in [0, 1) that looks random.
fn fraction(seed: u64, index: u64) -> f64 {
    let mixed = (seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd134_2543_de82_ef95);
    f64::from((mixed >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.item.cmp(&self.item))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(round_robin: &mut RoundRobin<char>, count: usize) -> String {
        (0..count).map(|_| *round_robin.next().unwrap()).collect()
    }

    #[test]
    fn equal_weights_go_round_from_where_the_seed_says() {
        let mut round_robin = RoundRobin::new([(2, 'a'), (2, 'b'), (2, 'c')], 4);
        assert_eq!(turns(&mut round_robin, 7), "bcabcab");
    }

    #[test]
    fn weights_are_kept_in_every_round_and_spread() {
        for seed in 0..50 {
            let mut round_robin = RoundRobin::new([(1, 'a'), (3, 'b'), (2, 'c')], seed);
            for _ in 0..5 {
                let round = turns(&mut round_robin, 6);
                let count = |item| round.matches(item).count();
                assert_eq!((count('a'), count('b'), count('c')), (1, 3, 2), "seed {seed}: {round}");
                assert!(!round.contains("bbb"), "seed {seed}: {round}");
            }
        }
    }

    #[test]
    fn workers_begin_at_different_items() {
        let begins = |seed| turns(&mut RoundRobin::new([(1, 'a'), (3, 'b'), (2, 'c')], seed), 1);
        assert!((0..20).map(begins).collect::<std::collections::HashSet<_>>().len() > 1);
    }

    #[test]
    fn nothing_to_choose() {
        assert!(RoundRobin::<char>::new([], 7).next().is_none());
    }
}

//! What differs between two maps, without a look at what they share.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Iter, SharedMap};

/// An entry that one map has and another has not, or has otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    pub key: &'a K,
    pub before: Option<&'a V>,
    pub after: Option<&'a V>,
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// What makes this map of the one `before`, in the order of the keys.
    pub fn differences<'a>(&'a self, before: &'a Self) -> Vec<Difference<'a, K, V>> {
        let mut found = Vec::new();
        let _: ControlFlow<()> = self.compare(before, |difference| {
            found.push(difference);
            ControlFlow::Continue(())
        });
        found
    }

    fn compare<'a>(
        &'a self,
        before: &'a Self,
        mut differs: impl FnMut(Difference<'a, K, V>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mut old, mut new) = (before.iter(), self.iter());
        let (mut left, mut right) = (None, None);
        loop {
            if left.is_none() && right.is_none() {
                old.skip_common(&mut new);
            }
            left = left.or_else(|| old.next_shared());
            right = right.or_else(|| new.next_shared());
            let order = match (left, right) {
                (None, None) => return ControlFlow::Continue(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let one = if order.is_le() { left.take() } else { None };
            let other = if order.is_ge() { right.take() } else { None };
            let same = matches!((one, other), (Some((_, one)), Some((_, other))) if Arc::ptr_eq(one, other) || one == other);
            if let (false, Some((key, _))) = (same, other.or(one)) {
                let value = |entry: Option<(&'a K, &'a Arc<V>)>| entry.map(|(_, value)| &**value);
                differs(Difference { key, before: value(one), after: value(other) })?;
            }
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> SharedMap<K, V> {
    /// Becomes `other`, and shares what is equal with its own copies as before.
    pub fn become_like(&mut self, other: &Self) {
        let before = self.clone();
        for Difference { key, after, .. } in other.differences(&before) {
            match after.and_then(|_| other.get_shared(key)) {
                Some(value) => self.insert_shared(key.clone(), value.clone()),
                None => drop(self.remove(key)),
            }
        }
    }
}

impl<K, V> Iter<'_, K, V> {
    /// If both are between two chunks: to where their next chunks differ.
    fn skip_common(&mut self, other: &mut Self) {
        if !(self.entries.as_slice().is_empty() && other.entries.as_slice().is_empty()) {
            return;
        }
        let (one, two) = (self.chunks.as_slice(), other.chunks.as_slice());
        let common = one.iter().zip(two).take_while(|(one, two)| Arc::ptr_eq(one, two)).count();
        self.chunks = one[common..].iter();
        other.chunks = two[common..].iter();
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.compare(other, |_| ControlFlow::Break(())).is_continue()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

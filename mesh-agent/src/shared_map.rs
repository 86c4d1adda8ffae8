//! A map whose copies share what they have in common, so that a copy of a large one costs little, and what differs between
//! two of them is found without looking at the rest.
//!
//! Entries are in order, in chunks. A copy takes over the chunks; who changes an entry makes a chunk of its own. Two maps
//! that hold the same chunk need not look into it to know that they agree there.

mod difference;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::slice;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use difference::Difference;

/// A chunk has no more entries than this.
const MOST: usize = 32;
/// What is put together at once leaves room in its chunks.
const FILLED: usize = 24;

/// A map in the order of its keys.
pub struct SharedMap<K, V> {
    /// None is empty.
    chunks: Vec<Arc<Chunk<K, V>>>,
    len: usize,
}

type Chunk<K, V> = Vec<(K, Arc<V>)>;

impl<K: Ord, V> SharedMap<K, V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_shared(key).map(|value| &**value)
    }

    /// The value as all copies of this map hold it.
    pub fn get_shared<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<V>>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let place = place_in(chunk, key).ok()?;
        Some(&chunk[place].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The first entry behind `key`; without one, the first of all.
    pub fn first_after<Q: Ord + ?Sized>(&self, key: Option<&Q>) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let Some(key) = key else { return self.iter().next() };
        let number = self.chunk_of(key);
        let chunk = self.chunks.get(number)?;
        let place = match place_in(chunk, key) {
            Ok(place) => place + 1,
            Err(place) => place,
        };
        let entry = chunk.get(place).or_else(|| self.chunks.get(number + 1)?.first());
        entry.map(|(key, value)| (key, &**value))
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), entries: [].iter() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The chunk that has the key, or would have it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_behind =
            |chunk: &Arc<Chunk<K, V>>| chunk.first().is_some_and(|(first, _)| first.borrow() > key);
        self.chunks.partition_point(|chunk| !begins_behind(chunk)).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V> SharedMap<K, V> {
    pub fn insert(&mut self, key: K, value: V) {
        self.insert_shared(key, Arc::new(value));
    }

    pub fn insert_shared(&mut self, key: K, value: Arc<V>) {
        let number = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(number) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return;
        };
        let chunk = Arc::make_mut(chunk);
        match place_in(chunk, &key) {
            Ok(place) => chunk[place].1 = value,
            Err(place) => {
                chunk.insert(place, (key, value));
                self.len += 1;
                if chunk.len() > MOST {
                    let rest = chunk.split_off(MOST / 2);
                    self.chunks.insert(number + 1, Arc::new(rest));
                }
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        let number = self.chunk_of(key);
        let place = place_in(self.chunks.get(number)?, key).ok()?;
        let chunk = Arc::make_mut(&mut self.chunks[number]);
        let (_, value) = chunk.remove(place);
        if chunk.is_empty() {
            self.chunks.remove(number);
        }
        self.len -= 1;
        Some(value)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// A value to be changed; copies of this map keep it as it is.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let number = self.chunk_of(key);
        let place = place_in(self.chunks.get(number)?, key).ok()?;
        let (_, value) = &mut Arc::make_mut(&mut self.chunks[number])[place];
        Some(Arc::make_mut(value))
    }

    /// Changes every value.
    pub fn update(&mut self, mut change: impl FnMut(&K, &mut V)) {
        for (key, value) in self.chunks.iter_mut().flat_map(Arc::make_mut) {
            change(key, Arc::make_mut(value));
        }
    }
}

fn place_in<K: Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &Chunk<K, V>, key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(known, _)| known.borrow().cmp(key))
}

/// The entries of a map, in order.
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Arc<Chunk<K, V>>>,
    entries: slice::Iter<'a, (K, Arc<V>)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn next_shared(&mut self) -> Option<(&'a K, &'a Arc<V>)> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.iter();
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_shared().map(|(key, value)| (key, &**value))
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// Panics if there is no such entry, as those of the standard library do.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry for the key")
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    /// Of two entries with one key, the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        BTreeMap::from_iter(entries).into()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for SharedMap<K, V> {
    fn from(sorted: BTreeMap<K, V>) -> Self {
        let len = sorted.len();
        let mut sorted = sorted.into_iter().map(|(key, value)| (key, Arc::new(value))).peekable();
        let mut chunks = Vec::with_capacity(len.div_ceil(FILLED));
        while sorted.peek().is_some() {
            chunks.push(Arc::new(sorted.by_ref().take(FILLED).collect()));
        }
        Self { chunks, len }
    }
}

impl<K: Ord + Clone, V> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<K, V>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys and values; a value of 0 removes the key.
    fn changes() -> impl Strategy<Value = Vec<(u16, u8)>> {
        prop::collection::vec((0..300_u16, 0..4_u8), 0..400)
    }

    fn changed(map: &mut SharedMap<u16, u8>, model: &mut BTreeMap<u16, u8>, changes: &[(u16, u8)]) {
        for (key, value) in changes {
            if *value == 0 {
                assert_eq!(map.remove(key).map(|value| *value), model.remove(key));
            } else {
                map.insert(*key, *value);
                model.insert(*key, *value);
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(first in changes(), second in changes(), probe in 0..300_u16) {
            let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
            changed(&mut map, &mut model, &first);
            let (copy, old) = (map.clone(), model.clone());
            changed(&mut map, &mut model, &second);
            prop_assert!(map.iter().eq(&model) && map.len() == model.len());
            prop_assert!(copy.iter().eq(&old), "a copy stays as it was");
            prop_assert_eq!(map.get(&probe), model.get(&probe));
            let after = model.range(probe + 1..).next();
            prop_assert_eq!(map.first_after(Some(&probe)), after);
            prop_assert_eq!(map.first_after::<u16>(None), model.iter().next());
            prop_assert_eq!(&model.into_iter().collect::<SharedMap<_, _>>(), &map, "however it was made");
            prop_assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MOST));
        }

        #[test]
        fn differences_lead_from_one_to_the_other(first in changes(), second in changes()) {
            let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
            changed(&mut map, &mut model, &first);
            let (copy, old) = (map.clone(), model.clone());
            changed(&mut map, &mut model, &second);
            let mut expected: Vec<_> = old.keys().chain(model.keys()).collect();
            expected.sort_unstable();
            expected.dedup();
            expected.retain(|key| old.get(key) != model.get(key));
            let found = map.differences(&copy);
            prop_assert!(found.iter().map(|found| found.key).eq(expected.iter().copied()));
            prop_assert!(found.iter().all(|found| found.before == old.get(found.key) && found.after == model.get(found.key)));
            prop_assert_eq!(map == copy, expected.is_empty());

            let fresh: SharedMap<u16, u8> = model.into_iter().collect();
            let mut like = copy.clone();
            like.become_like(&fresh);
            prop_assert_eq!(like, fresh);
        }
    }

    /// A value that counts how often it is compared.
    #[derive(Debug)]
    struct Counted<'a>(&'a std::cell::Cell<u32>);

    impl PartialEq for Counted<'_> {
        fn eq(&self, _: &Self) -> bool {
            self.0.set(self.0.get() + 1);
            true
        }
    }

    #[test]
    fn what_is_shared_is_not_compared() {
        let count = std::cell::Cell::new(0);
        let map: SharedMap<u32, Counted<'_>> = (0..1000).map(|key| (key, Counted(&count))).collect();
        let mut copy = map.clone();
        copy.insert(500, Counted(&count));
        copy.insert(2000, Counted(&count));
        assert_eq!(copy.differences(&map).len(), 1);
        assert_eq!(count.get(), 1, "the one that was replaced");
        let mut like = map.clone();
        like.become_like(&copy);
        assert_eq!(
            like.chunks.iter().zip(&map.chunks).filter(|(one, other)| !Arc::ptr_eq(one, other)).count(),
            1
        );
    }
}

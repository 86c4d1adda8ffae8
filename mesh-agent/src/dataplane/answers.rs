//! Answers about names that the kernel gives by itself: kept there, given up, counted.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use mesh_common::answer::{Answer, QuestionKey};
use mesh_common::maps;

use super::pins::Pins;
use super::{DataplaneError, failed, open};

const ANSWERS: &str = "ANSWERS";
const VERSION: &str = "ANSWERS_VERSION";
const ANSWERED: &str = "ANSWERED";

/// The one writer of `ANSWERS` and `ANSWERS_VERSION`.
pub struct Answers {
    kept: Mutex<HashMap<MapData, QuestionKey, Answer>>,
    current: Mutex<Array<MapData, u64>>,
    counts: PerCpuArray<MapData, u64>,
    version: AtomicU64,
    serial: AtomicU64,
}

/// An answer that a question will get again for as long as the names stay what they are.
#[derive(Clone, Copy, Debug)]
pub struct Lasting<'a> {
    /// What [`Answers::version`] was before the names were looked at.
    pub version: u64,
    /// The container's address on docker_gwbridge.
    pub asker: Ipv4Addr,
    /// Whole messages.
    pub question: &'a [u8],
    pub answer: &'a [u8],
    /// Where it is counted: a place in [`Answers::counts`].
    pub counter: u32,
}

impl Answers {
    /// Gives up what an agent before this one has kept.
    pub fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let current: Array<_, u64> = open(pins, VERSION, Map::Array)?;
        let before = current.get(&0, 0).map_err(failed("read", VERSION))?;
        let answers = Self {
            kept: Mutex::new(open(pins, ANSWERS, Map::LruHashMap)?),
            current: Mutex::new(current),
            counts: open(pins, ANSWERED, Map::PerCpuArray)?,
            version: AtomicU64::new(before),
            // Far from all that was used by an agent before.
            serial: AtomicU64::new(before << 32),
        };
        answers.renew()?;
        Ok(answers)
    }

    /// Gives up all that is kept: to be called whenever the names have changed.
    pub fn renew(&self) -> Result<(), DataplaneError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.version.load(SeqCst) + 1;
        current.set(0, next, 0).map_err(failed("change", VERSION))?;
        self.version.store(next, SeqCst);
        Ok(())
    }

    /// Of the names, as far as they are known to have changed. Whoever wants an answer to be kept reads this first, and
    /// then the names.
    pub fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    /// Lets the kernel give an answer, unless it is one too long for that.
    pub fn keep(&self, lasting: Lasting<'_>) -> Result<(), DataplaneError> {
        let serial = self.serial.fetch_add(1, SeqCst);
        let key = QuestionKey::new(lasting.asker.into(), lasting.question);
        let value = Answer::new(lasting.version, serial, lasting.counter, lasting.answer);
        let (Some(key), Some(value)) = (key, value) else { return Ok(()) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(key, value, 0).map_err(failed("change", ANSWERS))
    }

    /// How often answers were given since the node has started, by [`Lasting::counter`].
    pub fn counts(&self) -> Result<Vec<u64>, DataplaneError> {
        let count = |place: u32| self.counts.get(&place, 0).map(|values| values.iter().sum());
        (0..maps::ANSWERED).map(count).collect::<Result<_, _>>().map_err(failed("read", ANSWERED))
    }
}

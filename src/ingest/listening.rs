//! Since when messages come as they are sent.
//!
//! After a break the broker first delivers what it kept. A session's messages come in the order in which the broker took
//! them, so the backlog is over with the first message that was fresh when it came, or when nothing comes for a moment.
//! Until then nobody's silence can be judged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Depth, SourceStatus};
use crate::model::Timestamp;

/// A message whose newest reading is not older than this was fresh when it came.
const FRESH: Duration = Duration::from_secs(30);

/// A source from which nothing came for so long, though it is ready, has no backlog.
const IDLE: Duration = Duration::from_secs(2);

/// Since when all sources are heard as they speak.
#[derive(Debug)]
pub struct Listening {
    sources: Vec<Arc<SourceStatus>>,
    queue: Depth,
    since: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    /// By source.
    drained: Vec<Option<Drained>>,
    /// When intake last stood still, or the clock was set.
    interrupted: Option<Timestamp>,
}

/// A source's backlog is over.
#[derive(Clone, Copy, Debug)]
struct Drained {
    /// On which connection.
    connection: u64,
    since: Timestamp,
}

impl Listening {
    /// Nothing has been heard yet.
    pub fn new(sources: Vec<Arc<SourceStatus>>, queue: Depth) -> Self {
        let since = Mutex::new(Heard { drained: vec![None; sources.len()], interrupted: None });
        Self { sources, queue, since }
    }

    /// Takes note of a message that is settled: when it was received, and the time of its newest reading.
    pub fn hear(&self, source: &str, received: Timestamp, newest: Timestamp) {
        if received.since(newest) > FRESH {
            return;
        }
        let Some(place) = self.sources.iter().position(|status| status.name.as_str() == source) else { return };
        self.drained(place, received);
    }

    fn drained(&self, place: usize, since: Timestamp) {
        let Some(status) = self.sources.get(place) else { return };
        let connection = status.connections.load(Ordering::Relaxed);
        if let Some(slot) = self.since.lock().drained.get_mut(place)
            && slot.is_none_or(|drained| drained.connection != connection)
        {
            *slot = Some(Drained { connection, since });
        }
    }

    /// Intake stands still, or the clock was set to `now`: what comes after it is a backlog again.
    pub fn interrupt(&self, now: Timestamp) {
        let mut since = self.since.lock();
        since.drained.fill(None);
        since.interrupted = Some(now);
    }

    /// Since when all sources are heard as they speak; `None` while one is not.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let (waiting, capacity) = self.queue.get();
        if waiting * 2 > capacity {
            self.interrupt(now);
        }
        let interrupted = self.since.lock().interrupted;
        for (place, status) in self.sources.iter().enumerate() {
            // Of what a clock said that was set back since, nothing counts.
            let quiet_since = [status.since(), status.heard(), interrupted].into_iter().flatten().filter(|since| *since <= now).max();
            if status.is_ready() && waiting == 0 && quiet_since.is_some_and(|quiet| now.since(quiet) > IDLE) {
                self.drained(place, now);
            }
        }
        let since = self.since.lock();
        let mut latest = None;
        for (status, drained) in self.sources.iter().zip(&since.drained) {
            let connection = status.connections.load(Ordering::Relaxed);
            let drained = drained.filter(|drained| drained.connection == connection && status.is_ready())?;
            latest = latest.max(Some(drained.since));
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SourceName;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000).unwrap()
    }

    fn source(name: &str) -> Arc<SourceStatus> {
        SourceStatus::new(SourceName::try_from(name).unwrap())
    }

    fn connect(status: &SourceStatus, at: i64) {
        status.connections.fetch_add(1, Ordering::Relaxed);
        status.set_ready(second(at));
        status.heard.store(second(at).micros(), Ordering::Relaxed);
    }

    #[test]
    fn a_backlog_ends_with_the_first_fresh_message() {
        let (inlet, _messages) = crate::ingest::queue(10, 10_000);
        let main = source("main");
        let listening = Listening::new(vec![Arc::clone(&main)], inlet.depth());
        connect(&main, 0);
        listening.hear("main", second(1), second(-600));
        assert_eq!(listening.since(second(1)), None);
        listening.hear("main", second(2), second(-20));
        listening.hear("main", second(3), second(3));
        assert_eq!(listening.since(second(3)), Some(second(2)));
        main.set_failed(second(4), "gone".to_owned());
        assert_eq!(listening.since(second(4)), None);
        connect(&main, 60);
        assert_eq!(listening.since(second(60)), None);
        listening.hear("main", second(61), second(61));
        assert_eq!(listening.since(second(61)), Some(second(61)));
        listening.interrupt(second(62));
        assert_eq!(listening.since(second(62)), None);
    }

    #[test]
    fn an_idle_source_has_no_backlog_and_every_source_counts() {
        let (inlet, _messages) = crate::ingest::queue(10, 10_000);
        let (one, other) = (source("one"), source("other"));
        let listening = Listening::new(vec![Arc::clone(&one), Arc::clone(&other)], inlet.depth());
        connect(&one, 0);
        assert_eq!(listening.since(second(3)), None);
        connect(&other, 3);
        assert_eq!(listening.since(second(4)), None);
        assert_eq!(listening.since(second(6)), Some(second(6)));
        assert_eq!(listening.since(second(9)), Some(second(6)));
    }

    #[test]
    fn a_clock_that_is_set_makes_a_backlog_of_what_comes() {
        let (inlet, _messages) = crate::ingest::queue(10, 10_000);
        let main = source("main");
        let listening = Listening::new(vec![Arc::clone(&main)], inlet.depth());
        connect(&main, 0);
        listening.hear("main", second(1), second(1));
        assert_eq!(listening.since(second(1)), Some(second(1)));
        // An hour forward: what was heard by the old clock is no idleness, and what seems an hour old is not fresh.
        listening.interrupt(second(3_601));
        assert_eq!(listening.since(second(3_601)), None);
        listening.hear("main", second(3_602), second(2));
        assert_eq!(listening.since(second(3_602)), None);
        assert_eq!(listening.since(second(3_604)), Some(second(3_604)));
        // And back.
        main.heard.store(second(3_604).micros(), Ordering::Relaxed);
        listening.interrupt(second(5));
        assert_eq!(listening.since(second(6)), None);
        assert_eq!(listening.since(second(8)), Some(second(8)));
    }
}

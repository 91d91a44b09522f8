//! How often a device speaks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Gaps that are remembered: enough for a median that some lost messages do not move.
const GAPS_MAX: usize = 15;

/// Gaps from which an interval is learned.
const GAPS_MIN: usize = 5;

/// How often a device speaks: the last gaps between the phenomenon times of its observations, whatever their property. Not
/// the times of receipt: history that is sent at once, or a backlog after an outage, says nothing about a device's habits.
/// What arrives behind its newest observation does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rhythm {
    /// Phenomenon time of its newest observation, in microseconds.
    newest: Option<i64>,
    /// In milliseconds, the oldest first.
    gaps_ms: Vec<u32>,
}

impl Rhythm {
    /// Takes note of an observation.
    pub(super) fn see(&mut self, time: i64) {
        match self.newest {
            Some(newest) if time <= newest => return,
            Some(newest) => {
                if self.gaps_ms.len() == GAPS_MAX {
                    self.gaps_ms.remove(0);
                }
                self.gaps_ms.push(u32::try_from(time.saturating_sub(newest) / 1_000).unwrap_or(u32::MAX));
            }
            None => {}
        }
        self.newest = Some(time);
    }

    /// The expected interval: the median of the last gaps; none before there are some.
    pub fn interval(&self) -> Option<Duration> {
        let mut gaps = self.gaps_ms.clone();
        gaps.sort_unstable();
        let median = *gaps.get(gaps.len() / 2)?;
        (gaps.len() >= GAPS_MIN).then(|| Duration::from_millis(u64::from(median.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Commit, Database, DeviceIndex, FollowerPosition, LedgerMoves, NewDevice, NewSeries, Place, SeriesIndex, Trim};
    use super::*;
    use crate::model::{Catalogue, DeviceId, DeviceKind, Districts, Domain, PropertyIndex, Timestamp};

    #[test]
    fn what_was_learned_survives_restarts_also_once_the_log_is_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Database::open(folder.path(), &Arc::new(Catalogue::built_in()), &Arc::new(Districts::built_in())).unwrap().0;
        let interval = |database: &Database| database.live().read().device(DeviceIndex(0)).rhythm.interval();
        let device = NewDevice {
            id: DeviceId::try_from("a").unwrap(),
            kind: DeviceKind::try_from("k").unwrap(),
            domain: Domain::Energy,
            first_seen: Timestamp::MIN,
        };
        let series = NewSeries { device: DeviceIndex(0), property: PropertyIndex(0) };
        let mut commit = Commit { new_devices: vec![device], new_series: vec![series], ..Commit::default() };
        for minute in 0..6 {
            commit.ordered.push(SeriesIndex(0), minute * 60_000_000, 1.0, 0, Place::default(), None);
        }
        let database = open();
        let sequence = database.turn().commit(commit).unwrap();
        let minute = Some(Duration::from_mins(1));
        assert_eq!(interval(&database), minute);
        drop(database);
        let database = open();
        assert_eq!(interval(&database), minute);
        let position = FollowerPosition { ordered: sequence, late: sequence };
        database.turn().trim(&Trim { store: "lake", position, moves: LedgerMoves::default(), digests: 10 }).unwrap();
        drop(database);
        assert_eq!(interval(&open()), minute);
    }

    #[test]
    fn an_interval_is_the_median_of_the_last_gaps() {
        let mut rhythm = Rhythm::default();
        let mut see = |seconds: &[i64]| {
            for second in seconds {
                rhythm.see(second * 1_000_000);
            }
            rhythm.interval().map(|interval| interval.as_secs())
        };
        assert_eq!(see(&[0, 60, 120, 180, 240]), None);
        // Late ones and repeated times are no gaps; an outage does not move the median.
        assert_eq!(see(&[10, 240, 300]), Some(60));
        assert_eq!(see(&[86_400]), Some(60));
        // Another rhythm, learned once most of what is remembered follows it.
        assert_eq!(see(&(1..=7).map(|step| 86_400 + step * 600).collect::<Vec<_>>()), Some(600));
    }
}

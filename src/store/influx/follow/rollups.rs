//! Rollups from the lake into InfluxDB, day by day, the newest first.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDateTime};
use futures::StreamExt;
use influxdb2::RequestError;

use super::{FollowError, Follower, Step};
use crate::model::Timestamp;
use crate::state::UncopiedUnit;
use crate::store::LakeError;
use crate::store::influx::line::Lines;
use crate::store::influx::scan::{Columns, literal};
use crate::store::influx::{InfluxError, ROLLUP, STORE};

/// Bytes of one write, about: sketches make long lines.
const WRITE_BYTES: usize = 4 << 20;

/// The first instant of which there may be rollups.
const BEGINNING: &str = "1900-01-01T00:00:00Z";

impl Follower {
    /// Copies what is not copied of a day; first finds out what that is, unless it `is_known`.
    pub(super) async fn copy_rollups(&self, is_known: bool) -> Result<Step, FollowError> {
        if !is_known {
            let units = match self.lake.rolled_up() {
                // Whatever it holds is copied once it is there.
                Err(LakeError::Unopened) => return Ok(Step::Idle),
                units => units?,
            };
            self.blocking(move |database, _reader| database.turn().note_uncopied(STORE, &units)).await?;
            return Ok(Step::Worked);
        }
        let mut units = self.blocking(|_database, reader| reader.uncopied(STORE, None)).await?.unwrap_or_default();
        {
            let refused = self.refused.lock();
            units.retain(|unit| !refused.contains(unit));
        }
        let Some(day) = units.first().map(|unit| unit.unit.day) else { return self.delete_old().await };
        units.retain(|unit| unit.unit.day == day);
        match self.copy_day(day, &units).await {
            Ok(()) => self.blocking(move |database, _reader| database.turn().settle_uncopied(STORE, &units)).await?,
            Err(FollowError::Lake(LakeError::Unopened)) => return Ok(Step::Idle),
            // They are asked of the observations until they are rolled up again, and hold up no others.
            Err(FollowError::Refused(error)) => {
                tracing::warn!(error, day = %self.lake.day(day).0, "InfluxDB refuses rollups");
                self.refused.lock().extend(units);
            }
            Err(error) => return Err(error),
        }
        Ok(Step::Worked)
    }

    async fn copy_day(&self, day: i32, units: &[UncopiedUnit]) -> Result<(), FollowError> {
        let (start, end) = self.lake.day(day);
        let properties: Vec<String> = units.iter().map(|unit| unit.unit.property.clone()).collect();
        let mut rollups = self.lake.rollups_of(day, properties.clone())?;
        for property in properties.iter().filter_map(|property| self.influx.catalogue.find(property)) {
            self.influx.rewrite(property, start);
        }
        let known = self.bounded(self.rolled_up_properties(start, end)).await?;
        for property in properties.iter().filter(|property| known.contains(*property)) {
            self.delete_rollups(start, end, &format!("property={}", literal(property))).await?;
        }
        let mut lines = Lines::default();
        while let Some(rows) = rollups.next().await {
            let (tier, rows) = rows?;
            for row in &rows {
                lines.push_rollup(tier, row);
                if lines.len() >= self.influx.settings.batch_lines_max || lines.bytes() >= WRITE_BYTES {
                    self.write_rollups(&std::mem::take(&mut lines)).await?;
                }
            }
        }
        self.write_rollups(&lines).await
    }

    async fn write_rollups(&self, lines: &Lines) -> Result<(), FollowError> {
        if lines.len() == 0 {
            return Ok(());
        }
        match self.bounded(self.post(&self.influx.settings.rollup_bucket, lines.text(0..lines.len()))).await {
            // The rest is written: these are older than the bucket keeps.
            Err(InfluxError::Request(RequestError::Http { status, text }))
                if [400, 422].contains(&status.as_u16()) && text.contains("retention policy") =>
            {
                Ok(())
            }
            Err(InfluxError::Request(RequestError::Http { status, text })) if [400, 413, 422].contains(&status.as_u16()) => {
                Err(FollowError::Refused(text))
            }
            written => Ok(written?),
        }
    }

    /// The properties of which InfluxDB has any rollups in a stretch.
    async fn rolled_up_properties(&self, start: Timestamp, end: Timestamp) -> Result<BTreeSet<String>, InfluxError> {
        let flux = format!(
            "from(bucket: {}) |> range(start: {start}, stop: {end}) |> filter(fn: (r) => r._measurement == {} and r._field == \"count\") \
             |> first() |> keep(columns: [\"property\"]) |> group() |> distinct(column: \"property\")",
            literal(&self.influx.settings.rollup_bucket),
            literal(ROLLUP)
        );
        let mut records = self.influx.ask(&flux).await?;
        let (mut columns, mut properties) = (Columns::default(), BTreeSet::new());
        while let Some(record) = records.next().await? {
            if let Some(header) = Columns::of(record) {
                columns = header;
                continue;
            }
            columns.refuse(record)?;
            properties.insert(record.cell(columns.value).to_owned());
        }
        Ok(properties)
    }

    /// Deletes rollups of a stretch: those of one tag's value.
    async fn delete_rollups(&self, start: Timestamp, end: Timestamp, tag: &str) -> Result<(), FollowError> {
        let predicate = format!("_measurement={} AND {tag}", literal(ROLLUP));
        self.delete(&self.influx.settings.rollup_bucket, start, end, &predicate).await
    }

    /// Deletes points of a stretch of whole seconds.
    pub(super) async fn delete(&self, bucket: &str, start: Timestamp, end: Timestamp, predicate: &str) -> Result<(), FollowError> {
        let time = |time: Timestamp| -> NaiveDateTime { DateTime::from_timestamp_micros(time.micros()).unwrap_or_default().naive_utc() };
        // InfluxDB deletes what is at the end of a stretch too, and is told whole seconds.
        let (start, last) = (time(start), time(end) - chrono::Duration::seconds(1));
        let deleted = async { Ok(self.influx.client.delete(bucket, start, last, Some(predicate.to_owned())).await?) };
        Ok(self.bounded(deleted).await?)
    }

    /// Deletes rollups that the lake has dropped for their age.
    async fn delete_old(&self) -> Result<Step, FollowError> {
        let kept_from = match self.lake.rolled_up_from() {
            Err(LakeError::Unopened) => return Ok(Step::Idle),
            kept_from => kept_from?,
        };
        for (tier, kept_from) in kept_from {
            if self.deleted.lock().get(&tier) != Some(&kept_from) {
                let beginning = BEGINNING.parse().unwrap_or(Timestamp::MIN);
                self.delete_rollups(beginning, kept_from, &format!("tier={}", literal(tier.word()))).await?;
                self.deleted.lock().insert(tier, kept_from);
            }
        }
        Ok(Step::Idle)
    }
}

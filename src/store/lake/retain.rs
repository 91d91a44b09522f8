//! Retention: what is past its time goes, by whole days or, where domains are kept for different times, by rewriting the files that hold
//! such rows, one at a time. Rollups stay.
//!
//! A file is looked at once, and again once more properties are past their time by its day: what is late for such a day comes in a file of
//! its own, and goes with the next turn.

use std::collections::BTreeMap;

use deltalake::datafusion::logical_expr::{Expr, col, lit};
use futures::StreamExt;
use hashbrown::HashMap;

use super::maintain::{COMPACT_LEVEL, FileInfo, date_text, files};
use super::read::{FileScan, one_of};
use super::table::{Change, DEVICE, PROPERTY, TIME, commit, date_of};
use super::{Lake, LakeError, Published};
use crate::model::{Domain, Timestamp};

/// From which time on observations are kept; `None` means all.
#[derive(Clone, Debug, Default)]
pub struct Oldest {
    /// Of every domain that is not named.
    pub general: Option<Timestamp>,
    /// Of the properties of single domains.
    pub of: BTreeMap<Domain, Option<Timestamp>>,
}

/// Files by path, and of how many properties each was found to hold no row that is past its time.
pub(super) type Examined = HashMap<String, usize>;

impl Lake {
    /// Drops observations past their time: of days that are over since before it. Returns how many files were dropped or rewritten.
    pub async fn drop_past(&self, oldest: &Oldest) -> Result<usize, LakeError> {
        let of = |domain: Domain| oldest.of.get(&domain).copied().unwrap_or(oldest.general);
        // What the catalogue no longer has goes with what is kept longest.
        let limits = self.catalogue.iter().map(|(_index, property)| of(property.domain)).chain([oldest.general]);
        let mut dropped = 0;
        if let Some(all) = limits.collect::<Option<Vec<_>>>().and_then(|limits| limits.into_iter().min()) {
            dropped += self.drop_days_before(all).await?;
        }
        if !oldest.of.is_empty() {
            let days = self.catalogue.iter().filter_map(|(_index, property)| Some((property.id.clone(), of(property.domain)?)));
            dropped += self.drop_rows(days.map(|(property, oldest)| (property, date_of(oldest.micros()))).collect()).await?;
        }
        Ok(dropped)
    }

    async fn drop_days_before(&self, oldest: Timestamp) -> Result<usize, LakeError> {
        let mut writer = self.writer().await?;
        let table = self.published()?.table;
        let (day, limit) = (date_of(oldest.micros()), date_text(date_of(oldest.micros())));
        let old: Vec<FileInfo> = files(&table)?.into_iter().filter(|file| file.date < limit).collect();
        if old.is_empty() {
            return Ok(0);
        }
        // What is dropped is never rolled up again.
        self.in_turn(move |turn| turn.keep_from(day)).await?;
        let removes = old.iter().map(|file| file.remove(true)).collect();
        self.change(&mut writer, commit(&table, Change { removes, ..Change::default() })).await?;
        Ok(old.len())
    }

    /// Drops rows of properties before a day each.
    async fn drop_rows(&self, days: Vec<(String, i32)>) -> Result<usize, LakeError> {
        let published = self.published()?;
        let limits: Vec<(String, String)> = days.iter().map(|(property, day)| (property.clone(), date_text(*day))).collect();
        let current = files(&published.table)?;
        self.examined.lock().retain(|path, _count| current.iter().any(|file| file.add.path == *path));
        let mut is_noted = false;
        let mut rewritten = 0;
        for file in current {
            let past = limits.iter().filter(|(_property, limit)| file.date < *limit);
            let past: Vec<String> = past.map(|(property, _limit)| property.clone()).collect();
            if past.is_empty() || self.examined.lock().get(&file.add.path) == Some(&past.len()) {
                continue;
            }
            if self.has_rows_of(&published, &file, &past).await? {
                if !is_noted {
                    // What is dropped is never rolled up again.
                    let days = days.clone();
                    self.in_turn(move |turn| turn.keep_from_of(&days)).await?;
                    is_noted = true;
                }
                rewritten += usize::from(self.rewrite_without(&published, &file, &past).await?);
            } else {
                self.examined.lock().insert(file.add.path, past.len());
            }
        }
        Ok(rewritten)
    }

    async fn has_rows_of(&self, published: &Published, file: &FileInfo, properties: &[String]) -> Result<bool, LakeError> {
        let Some(day) = published.files.iter().find(|day| file.is_named(day.path())) else { return Ok(false) };
        let filter = one_of(PROPERTY, properties);
        let scan = FileScan::new(&self.runtime, &self.store_url, Some(filter), (i64::MIN, i64::MAX), &[PROPERTY, DEVICE, TIME])?;
        let mut batches = scan.execute(scan.sorted(std::slice::from_ref(day)))?;
        while let Some(batch) = batches.next().await {
            if batch?.num_rows() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a file without the rows of some properties in its place, unless it is gone meanwhile.
    async fn rewrite_without(&self, published: &Published, file: &FileInfo, properties: &[String]) -> Result<bool, LakeError> {
        let stays: Expr = col(PROPERTY).in_list(properties.iter().map(|property| lit(property.as_str())).collect(), true);
        // Written beside flushes; only the commit needs the table for itself.
        let table = &published.table;
        let batches = self.read_files_where(table, &[file], Some(stays)).await?;
        let adds = self.write_stream(table, COMPACT_LEVEL, batches).await?;
        let mut writer = self.writer().await?;
        let newest = self.published()?.table;
        if !files(&newest)?.iter().any(|other| other.add.path == file.add.path) {
            return Ok(false);
        }
        let change = Change { adds, removes: vec![file.remove(true)], ..Change::default() };
        self.change(&mut writer, commit(&newest, change)).await?;
        Ok(true)
    }
}

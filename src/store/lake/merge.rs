//! Late rows: compared with the table, then appended, dropped or put in another's place.

use std::sync::Arc;

use deltalake::arrow::array::{AsArray, RecordBatch};
use deltalake::arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::logical_expr::{col, lit};
use deltalake::kernel::{Add, Remove};
use futures::StreamExt;
use hashbrown::{HashMap, HashSet};

use super::maintain::{files, texts};
use super::table::{BatchBuilder, Change, DATE, DEVICE, PROPERTY, TIME, TableRow, VALUE, date_of, write_files};
use super::{Lake, LakeError, STORE};
use crate::model::Original;
use crate::state::{Block, FollowerPosition, LedgerKey, LedgerMoves, MergePlan, Place, Rows, SeriesIndex};

/// The column in which a scan says which file a row comes from.
const FILE: &str = "conca_file";

/// zstd level of rewritten files.
const REWRITE_LEVEL: i32 = 3;

/// An identity among the late rows, and what the table should hold under it in the end.
struct Wanted {
    value: f64,
    flags: u16,
    place: Place,
    original: Option<Original>,
}

/// What the late rows come to.
struct Resolved {
    /// Identities that the table lacks.
    new: Vec<(SeriesIndex, i64)>,
    /// Identities of which the table holds another value.
    corrected: HashSet<(SeriesIndex, i64)>,
    /// What they should be.
    wanted: HashMap<(SeriesIndex, i64), Wanted>,
    /// Files that hold what is corrected.
    files: HashSet<String>,
    moves: LedgerMoves,
}

impl Lake {
    /// Compares late rows with the table and settles them there, after a flush; trims the log. Returns the rows settled.
    ///
    /// Takes as many of the oldest late blocks as hold the configured number of rows; call it again while it returns more than 0.
    pub async fn merge(&self) -> Result<usize, LakeError> {
        let mut writer = self.writer().await?;
        // What is late now may follow an ordered row that is not in the table yet.
        let late = self.database.live().tail_after(u64::MAX, self.published()?.position.late).late;
        let blocks = self.oldest(late);
        let Some(last) = blocks.last().map(|block| block.sequence) else { return Ok(0) };
        self.flush_held(&mut writer).await?;
        let published = self.published()?;
        let held = super::transaction(&published.table, &self.late_id()).await?;
        if held >= last {
            return Err(LakeError::Unknown { what: "log position", text: format!("{held} where the log ends with {last}") });
        }
        let stored = self.stored_values(&blocks).await?;
        let resolved = resolve(&blocks, &stored);
        let rows = blocks.iter().map(|block| block.rows.len()).sum();
        let (adds, removes) = self.rewrite(&blocks, &resolved).await?;
        let plan = MergePlan { late: last, moves: resolved.moves.clone() };
        self.in_turn(move |turn| turn.plan_merge(STORE, &plan)).await?;
        let change = Change { adds, removes, transactions: vec![(self.late_id(), last)], rearranged: false };
        let position = FollowerPosition { late: last, ..published.position };
        self.follow(&mut writer, change, position, resolved.moves, &blocks).await?;
        Ok(rows)
    }

    pub(super) async fn in_turn(
        &self,
        work: impl FnOnce(&mut crate::state::Turn<'_>) -> Result<(), crate::state::StateError> + Send + 'static,
    ) -> Result<(), LakeError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || work(&mut database.turn())).await.map_err(|_stopped| LakeError::Stopped)??;
        Ok(())
    }

    fn oldest(&self, blocks: Vec<Arc<Block>>) -> Vec<Arc<Block>> {
        let mut rows = 0;
        blocks
            .into_iter()
            .take_while(|block| {
                let first = rows == 0;
                rows += block.rows.len();
                first || rows <= self.settings.merge_rows_max
            })
            .collect()
    }

    /// What the table holds under the identities of late rows: value and file.
    async fn stored_values(&self, blocks: &[Arc<Block>]) -> Result<HashMap<(SeriesIndex, i64), (f64, String)>, LakeError> {
        let mut by_date: HashMap<i32, HashSet<(SeriesIndex, i64)>> = HashMap::new();
        for block in blocks {
            for (series, time) in block.rows.series.iter().zip(&block.rows.time) {
                by_date.entry(date_of(*time)).or_default().insert((*series, *time));
            }
        }
        let mut stored = HashMap::new();
        let table = self.published()?.table;
        if table.snapshot()?.log_data().num_files() == 0 {
            return Ok(stored);
        }
        let session = self.session();
        table.update_datafusion_session(&session.state())?;
        let provider = table.table_provider().with_file_column(FILE).await?;
        for (date, identities) in by_date {
            let names = self.series_of(&identities);
            let (Some(first), Some(last)) =
                (identities.iter().map(|(_series, time)| *time).min(), identities.iter().map(|(_series, time)| *time).max())
            else {
                continue;
            };
            let time = |micros: i64| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
            let filter = col(DATE)
                .eq(lit(ScalarValue::Date32(Some(date))))
                .and(col(TIME).between(time(first), time(last)))
                .and(distinct_filter(PROPERTY, names.keys().map(|(property, _device)| property.as_str())))
                .and(distinct_filter(DEVICE, names.keys().map(|(_property, device)| device.as_str())));
            let frame =
                session.read_table(Arc::clone(&provider))?.filter(filter)?.select_columns(&[PROPERTY, DEVICE, TIME, VALUE, FILE])?;
            let file = deltalake::datafusion::logical_expr::cast(col(FILE), deltalake::arrow::datatypes::DataType::Utf8View).alias(FILE);
            let frame = frame.select(vec![col(PROPERTY), col(DEVICE), col(TIME), col(VALUE), file])?;
            let mut batches = frame.execute_stream().await?;
            while let Some(batch) = batches.next().await {
                collect_stored(&batch?, &names, &identities, &mut stored)?;
            }
        }
        Ok(stored)
    }

    fn series_of(&self, identities: &HashSet<(SeriesIndex, i64)>) -> HashMap<(String, String), SeriesIndex> {
        let live = self.database.live().read();
        let distinct: HashSet<SeriesIndex> = identities.iter().map(|(series, _time)| *series).collect();
        distinct
            .into_iter()
            .map(|index| {
                let series = live.series_at(index);
                ((self.catalogue.get(series.property).id.clone(), live.device(series.device).id.to_string()), index)
            })
            .collect()
    }

    /// Files with the new rows, and new versions of the files that hold corrected ones.
    async fn rewrite(&self, blocks: &[Arc<Block>], resolved: &Resolved) -> Result<(Vec<Add>, Vec<Remove>), LakeError> {
        let table = self.published()?.table;
        let names = self.series_names(blocks.iter().map(|block| &block.rows));
        let mut rows: Vec<(i32, u32, i64, SeriesIndex)> =
            resolved.new.iter().map(|(series, time)| (date_of(*time), names.rank(*series), *time, *series)).collect();
        rows.sort_unstable();
        let mut builder = BatchBuilder::with_capacity(rows.len());
        for (_date, rank, time, series) in rows {
            let Some(wanted) = resolved.wanted.get(&(series, time)) else { continue };
            let (property, device) = names.at(rank);
            builder.push(&self.table_row(property, device, time, wanted));
        }
        let mut adds = if resolved.new.is_empty() { Vec::new() } else { write_files(&table, REWRITE_LEVEL, [builder.finish()]).await? };
        let mut removes = Vec::new();
        for file in files(&table)?.into_iter().filter(|file| resolved.files.iter().any(|name| file.is_named(name))) {
            let batches = self.read_files(&table, &[&file]).await?;
            let corrected = batches.map(|batch| batch.and_then(|batch| self.correct(&batch, &names, resolved)));
            adds.extend(self.write_stream(&table, REWRITE_LEVEL, corrected.boxed()).await?);
            removes.push(file.remove(true));
        }
        Ok((adds, removes))
    }

    fn table_row<'a>(&'a self, property: &'a str, device: &'a str, time: i64, wanted: &'a Wanted) -> TableRow<'a> {
        TableRow {
            property,
            device,
            time,
            value: wanted.value,
            flags: wanted.flags,
            place: wanted.place,
            district: wanted.place.district.map(|district| self.districts.get(district).id.as_str()),
            original: wanted.original.as_ref(),
        }
    }

    /// A batch of a file, with the corrected rows in place of the old ones.
    fn correct(&self, batch: &RecordBatch, names: &super::flush::SeriesNames, resolved: &Resolved) -> Result<RecordBatch, LakeError> {
        let by_name: HashMap<(&str, &str), SeriesIndex> = resolved
            .corrected
            .iter()
            .map(|(series, _time)| {
                let (property, device) = names.at(names.rank(*series));
                ((property, device), *series)
            })
            .collect();
        let rows = super::maintain::TableRows::of(batch)?;
        let mut builder = BatchBuilder::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let (property, device, time) = rows.identity(row);
            let wanted = by_name.get(&(property, device)).and_then(|series| {
                let key = (*series, time);
                resolved.corrected.contains(&key).then(|| resolved.wanted.get(&key)).flatten()
            });
            match wanted {
                Some(wanted) => builder.push(&self.table_row(property, device, time, wanted)),
                None => rows.copy(row, &mut builder),
            }
        }
        Ok(builder.finish())
    }
}

fn distinct_filter<'a>(column: &str, names: impl Iterator<Item = &'a str>) -> deltalake::datafusion::logical_expr::Expr {
    /// Longest list that is worth handing to the table as a filter.
    const LIST_MAX: usize = 200;
    let distinct: HashSet<&str> = names.collect();
    if distinct.len() > LIST_MAX {
        return lit(true);
    }
    col(column).in_list(distinct.into_iter().map(lit).collect(), false)
}

fn collect_stored(
    batch: &RecordBatch,
    names: &HashMap<(String, String), SeriesIndex>,
    identities: &HashSet<(SeriesIndex, i64)>,
    stored: &mut HashMap<(SeriesIndex, i64), (f64, String)>,
) -> Result<(), LakeError> {
    let (properties, devices, files) = (texts(batch.column(0))?, texts(batch.column(1))?, texts(batch.column(4))?);
    let (properties, devices, files) = (properties.as_string_view(), devices.as_string_view(), files.as_string_view());
    let times = batch.column(2).as_primitive::<TimestampMicrosecondType>();
    let values = batch.column(3).as_primitive::<Float64Type>();
    let mut key = (String::new(), String::new());
    let mut series = None;
    for row in 0..batch.num_rows() {
        if properties.value(row) != key.0 || devices.value(row) != key.1 {
            key = (properties.value(row).to_owned(), devices.value(row).to_owned());
            series = names.get(&key).copied();
        }
        let Some(series) = series else { continue };
        let identity = (series, times.value(row));
        if identities.contains(&identity) {
            stored.insert(identity, (values.value(row), files.value(row).to_owned()));
        }
    }
    Ok(())
}

/// Goes through late rows in order of receipt: the first of an identity that the table lacks is stored, an equal value is a
/// duplicate, another value a correction.
fn resolve(blocks: &[Arc<Block>], stored: &HashMap<(SeriesIndex, i64), (f64, String)>) -> Resolved {
    let mut current: HashMap<(SeriesIndex, i64), f64> = stored.iter().map(|(identity, (value, _file))| (*identity, *value)).collect();
    let mut resolved = Resolved {
        new: Vec::new(),
        corrected: HashSet::new(),
        wanted: HashMap::new(),
        files: HashSet::new(),
        moves: LedgerMoves::default(),
    };
    for block in blocks {
        let mut lines = ledger_lines(&block.rows);
        for row in 0..block.rows.len() {
            let (Some(series), Some(time), Some(value), Some(flags)) =
                (block.rows.series.get(row), block.rows.time.get(row), block.rows.value.get(row), block.rows.flags.get(row))
            else {
                continue;
            };
            let identity = (*series, *time);
            let Some(key) = lines.next() else { continue };
            let line = resolved.moves.line(&key.source, key.hour);
            line.pending -= 1;
            match current.insert(identity, *value) {
                None => {
                    line.stored += 1;
                    resolved.new.push(identity);
                }
                Some(known) if known.to_bits() == value.to_bits() => {
                    line.duplicate += 1;
                    continue;
                }
                Some(_other) => line.corrected += 1,
            }
            let wanted =
                Wanted { value: *value, flags: *flags, place: block.rows.place_of(row), original: block.rows.original_of(row).cloned() };
            resolved.wanted.insert(identity, wanted);
        }
    }
    for (identity, wanted) in &resolved.wanted {
        if let Some((value, file)) = stored.get(identity)
            && value.to_bits() != wanted.value.to_bits()
        {
            resolved.corrected.insert(*identity);
            resolved.files.insert(file.clone());
        }
    }
    resolved
}

/// The ledger line of each late row.
fn ledger_lines(rows: &Rows) -> impl Iterator<Item = &LedgerKey> {
    rows.origins.iter().flat_map(|origin| std::iter::repeat_n(&origin.key, origin.rows as usize))
}

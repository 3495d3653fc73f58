//! A table that is asked for its newer rows ([`crate::query`]), again and again.
//!
//! Where something identifies the rows, each that was read comes in the place of the one that has its key; one that is
//! there just so is let be. Where nothing does, the rows that are newer are all replaced by those that were read.

use std::sync::Arc;

use deltalake::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use deltalake::arrow::compute::{cast, filter_record_batch, not};
use deltalake::arrow::datatypes::{DataType, Int64Type, Schema};
use deltalake::arrow::row::OwnedRow;

use super::{AT_ONCE, Current, Noted, strange};
use crate::copy::Reading;
use crate::files::Part;
use crate::query::{Reached, Window};
use crate::shape::Shape;
use crate::source::Snapshot;
use crate::wire::Cursor;
use crate::{Error, Lsn};

/// What a reading has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// Everything was copied: so many rows.
    Copied(u64),
    /// So many rows were new or others than before.
    Rows(usize),
}

impl Current {
    /// Takes what the source has by now that is newer than what was read before; everything where nothing was, or the
    /// source's table has become another. The table must have been opened as the snapshot has it.
    pub async fn read_newer(&mut self, snapshot: &Snapshot<'_>, cursor: &Cursor) -> Result<Newer, Error> {
        let before = self.reached.as_ref().map(|(_, reached)| reached);
        let window = snapshot.window(&self.relation, cursor, before).await?;
        let must_be_copied = self.was_never_copied()?
            || self.asked.is_some()
            || self.followed.as_ref().map_or(true, |followed| self.keys.is_empty() && followed.rewrites);
        match window.condition.as_deref().filter(|_| !must_be_copied) {
            None => self.copy_noting(snapshot, Noted::Reached(window.reached)).await.map(Newer::Copied),
            Some(condition) => {
                // What the source's table has; the lake's may have more.
                let lake = self.lake.schema()?;
                let names = self.relation.columns.iter().map(|column| lake.field_with_name(&column.name));
                let schema =
                    Schema::new(names.map(|field| Ok(field?.clone())).collect::<Result<Vec<_>, Error>>()?);
                let mut rows = snapshot.rows(&self.relation, Arc::new(schema), condition).await?;
                let count = if self.keys.is_empty() {
                    self.replace_window(&mut rows, &window).await?
                } else {
                    self.replace_rows(&mut rows, window.reached).await?
                };
                Ok(Newer::Rows(count))
            }
        }
    }

    /// Puts rows in the place of those that have their keys. How far was reached is noted with the last of them: whoever
    /// is ended before reads all of them again.
    async fn replace_rows(&mut self, rows: &mut Reading, reached: Reached) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            let (batches, is_last) = some(rows).await?;
            let [_, shape] = self.shapes()?;
            let mut fold = self.fold(shape.clone())?;
            for batch in &batches {
                fold.put(batch)?;
            }
            let concerned: Vec<_> =
                self.lake.files()?.into_iter().filter(|part| fold.may_concern(part)).collect();
            for part in concerned {
                for batch in self.lake.read(&part.path).await? {
                    fold.forget_same(&shape.fit(&batch)?)?;
                }
            }
            count += fold.len();
            let rewrites = self.followed()?.rewrites;
            let (gone, come) = if fold.is_empty() && !rewrites {
                (Vec::new(), Vec::new())
            } else {
                self.rewrite(&fold, &shape, rewrites).await?
            };
            self.put_read(gone, come, is_last.then(|| reached.clone())).await?;
            if is_last {
                return Ok(count);
            }
        }
    }

    /// Puts the rows of a window in the place of all that were in it.
    async fn replace_window(&mut self, rows: &mut Reading, window: &Window) -> Result<usize, Error> {
        let [_, shape] = self.shapes()?;
        let (mut batches, mut is_last) = some(rows).await?;
        let mut count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let files = self.lake.files()?;
        let concerned: Vec<Part> = files.into_iter().filter(|part| window.may_concern(part)).collect();
        if is_last && self.has_just(&concerned, &batches, &shape, window).await? {
            self.put_read(Vec::new(), Vec::new(), Some(window.reached.clone())).await?;
            return Ok(0);
        }
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for part in concerned {
            let mut older = Vec::new();
            for batch in self.lake.read(&part.path).await? {
                let batch = shape.fit(&batch)?;
                older.push(filter_record_batch(&batch, &not(&window.has(&batch)?)?)?);
            }
            gone.push(part.remove);
            come.extend(self.lake.write(older).await?);
        }
        come.extend(self.lake.write(batches).await?);
        while !is_last {
            (batches, is_last) = some(rows).await?;
            count += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
            come.extend(self.lake.write(batches).await?);
        }
        self.put_read(gone, come, Some(window.reached.clone())).await?;
        Ok(count)
    }

    /// Whether the rows of a window are just these, as far as that can be said without holding too many.
    async fn has_just(
        &self,
        files: &[Part],
        rows: &[RecordBatch],
        shape: &Shape,
        window: &Window,
    ) -> Result<bool, Error> {
        let converter = shape.whole_rows()?;
        let taken = |batch: &RecordBatch, into: &mut Vec<OwnedRow>| {
            let rows = converter.convert_columns(batch.columns())?;
            into.extend(rows.iter().map(|row| row.owned()));
            Ok::<_, Error>(())
        };
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for batch in rows {
            taken(&shape.fit(batch)?, &mut there)?;
        }
        for part in files {
            for batch in self.lake.read(&part.path).await? {
                let batch = shape.fit(&batch)?;
                taken(&filter_record_batch(&batch, &window.has(&batch)?)?, &mut here)?;
                if here.len() > there.len() {
                    return Ok(false);
                }
            }
        }
        there.sort_unstable();
        here.sort_unstable();
        Ok(here == there)
    }

    /// Commits what was read, if anything of it is new.
    async fn put_read(
        &mut self,
        gone: Vec<deltalake::kernel::Remove>,
        come: Vec<deltalake::kernel::Add>,
        reached: Option<Reached>,
    ) -> Result<(), Error> {
        let before = self.reached.as_ref();
        let reached = reached.filter(|reached| before.is_none_or(|(_, before)| before != reached));
        if gone.is_empty() && come.is_empty() && reached.is_none() && !self.followed()?.grows {
            return Ok(());
        }
        if let Some(reached) = reached {
            let text = serde_json::to_vec(&Noted::Reached(reached.clone())).map_err(strange)?;
            self.reached = Some((self.lake.take_note(text).await?, reached));
        }
        let note = self.reached.as_ref().map(|(note, _)| *note);
        self.lake.put(gone, come, Lsn::from(0), note).await?;
        self.has_grown();
        Ok(())
    }
}

/// Rows, as many as are held at once; and whether they are the last.
async fn some(rows: &mut Reading) -> Result<(Vec<RecordBatch>, bool), Error> {
    let (mut batches, mut count) = (Vec::new(), 0);
    while count < AT_ONCE {
        let Some(batch) = rows.next().await? else { return Ok((batches, true)) };
        count += batch.num_rows();
        batches.push(batch);
    }
    Ok((batches, false))
}

impl Window {
    /// Whether a file can have rows of it.
    fn may_concern(&self, part: &Part) -> bool {
        let column = &self.reached.column;
        let newest = part.bounds(column).map(|(_, newest)| newest);
        newest.zip(self.from).is_none_or(|(newest, from)| newest >= from) || part.may_have_nulls(column)
    }

    /// Which rows of a batch are in it.
    fn has(&self, batch: &RecordBatch) -> Result<BooleanArray, Error> {
        let lost =
            || Error::Strange(format!("a table that is read by `{}` is without it", self.reached.column));
        let cursor = batch.column_by_name(&self.reached.column).ok_or_else(lost)?;
        // Days are counted in 32 bits.
        let cursor = match cursor.data_type() {
            DataType::Date32 => cast(&cast(cursor, &DataType::Int32)?, &DataType::Int64)?,
            _ => cast(cursor, &DataType::Int64)?,
        };
        let from = self.from.unwrap_or(i64::MIN);
        let cursor = cursor.as_primitive_opt::<Int64Type>().ok_or_else(lost)?;
        Ok((0..cursor.len()).map(|row| Some(cursor.is_null(row) || cursor.value(row) >= from)).collect())
    }
}

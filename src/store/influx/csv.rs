//! CSV as it comes over the network: records out of parts of any length.

use std::time::Duration;

use bytes::{Buf, Bytes};
use csv_core::{ReadRecordResult, Reader};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::InfluxError;

/// Longest record that is taken, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Most cells of a record.
const CELLS_MAX: usize = 1_024;

/// Reads the records of an answer's body.
pub(super) struct Records {
    body: BoxStream<'static, Result<Bytes, InfluxError>>,
    /// How long the next part may take.
    timeout: Duration,
    is_over: bool,
    part: Bytes,
    reader: Reader,
    text: Vec<u8>,
    text_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    text: &'a str,
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    /// A cell; empty where there is none.
    pub(super) fn cell(self, index: Option<usize>) -> &'a str {
        let found = index.and_then(|index| {
            let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
            self.text.get(start..*self.ends.get(index)?)
        });
        found.unwrap_or_default()
    }

    /// Where a cell says exactly this.
    pub(super) fn find(self, text: &str) -> Option<usize> {
        (0..self.ends.len()).find(|index| self.cell(Some(*index)) == text)
    }
}

impl Records {
    pub(super) fn new(body: BoxStream<'static, Result<Bytes, InfluxError>>, timeout: Duration) -> Self {
        let (text, ends) = (vec![0; 1_024], vec![0; 32]);
        Self { body, timeout, is_over: false, part: Bytes::new(), reader: Reader::new(), text, text_len: 0, ends, ends_len: 0 }
    }

    /// The next record that is not empty.
    pub(super) async fn next(&mut self) -> Result<Option<Record<'_>>, InfluxError> {
        (self.text_len, self.ends_len) = (0, 0);
        loop {
            if self.part.is_empty() && !self.is_over {
                match tokio::time::timeout(self.timeout, self.body.next()).await.map_err(|_elapsed| InfluxError::Timeout(self.timeout))? {
                    Some(part) => self.part = part?,
                    None => self.is_over = true,
                }
                // An empty part would read as the end.
                continue;
            }
            let (text, ends) = (self.text.get_mut(self.text_len..), self.ends.get_mut(self.ends_len..));
            let (result, read, written, ended) = self.reader.read_record(&self.part, text.unwrap_or_default(), ends.unwrap_or_default());
            self.part.advance(read);
            self.text_len += written;
            self.ends_len += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => grow(&mut self.text, RECORD_BYTES_MAX)?,
                ReadRecordResult::OutputEndsFull => grow(&mut self.ends, CELLS_MAX)?,
                ReadRecordResult::Record => {
                    let text = self.text.get(..self.text_len).unwrap_or_default();
                    let text = std::str::from_utf8(text).map_err(|error| InfluxError::Answer(error.to_string()))?;
                    return Ok(Some(Record { text, ends: self.ends.get(..self.ends_len).unwrap_or_default() }));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len_max: usize) -> Result<(), InfluxError> {
    if buffer.len() >= len_max {
        return Err(InfluxError::Answer(format!("a record is longer than {len_max}")));
    }
    buffer.resize(buffer.len() * 2, T::default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn records_come_out_of_parts_of_any_length() {
        let text = ",result,table\r\n,_result,0\r\n\r\n,\"a,\"\"b\"\"\n\",è\r\n";
        for length in 1..text.len() {
            let parts: Vec<_> = text.as_bytes().chunks(length).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let mut records = Records::new(stream::iter(parts).boxed(), Duration::from_secs(5));
            let mut read = Vec::new();
            while let Some(record) = records.next().await.unwrap() {
                read.push((0..record.ends.len()).map(|index| record.cell(Some(index)).to_owned()).collect::<Vec<_>>());
            }
            assert_eq!(read, [["", "result", "table"], ["", "_result", "0"], ["", "a,\"b\"\n", "è"]]);
        }
    }

    #[tokio::test]
    async fn a_record_without_end_is_refused() {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 65_536]))).boxed();
        assert!(Records::new(endless, Duration::from_secs(5)).next().await.is_err());
    }

    #[tokio::test]
    async fn an_answer_that_stops_is_given_up() {
        let mut records = Records::new(stream::pending().boxed(), Duration::from_millis(1));
        assert!(matches!(records.next().await, Err(InfluxError::Timeout(_))));
    }
}

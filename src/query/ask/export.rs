//! Everything of a selection, as it comes: memory is bounded however much it is.

use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Answers, AskError, ObservationQuestion, ObservationRow};
use crate::store::{Detail, Order};

/// Rows by the thousand. Each series' rows ascend; of different series, those of a day (UTC) come together.
pub type Export = BoxStream<'static, Result<Vec<ObservationRow>, AskError>>;

impl Answers {
    /// All observations that a question is about, whatever its limit, cursor and direction.
    pub fn export(self, question: ObservationQuestion) -> Result<Export, AskError> {
        if question.from >= question.to {
            return Err(AskError::EmptyRange);
        }
        let devices = question.filter.devices(&self.live.read())?;
        let selection = question.filter.selection(question.properties, question.from, question.to, devices);
        let chunks = self.history.scan(selection, Order::SeriesTime, Detail::All)?;
        Ok(chunks.map(move |chunk| Ok(self.rows(&chunk?).collect())).boxed())
    }
}

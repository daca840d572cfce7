//! The images that a List or a Count selects: those that match its filters, and not its filters of exclusion.

use crate::model::Result;
use crate::model::image::plan::QueryPlan;
use crate::service::cancel::Cancel;
use crate::service::images::query::Query;

/// The images that match a filter, without those that match another.
#[derive(Debug)]
pub(crate) struct Selection {
    wanted: Query,
    unwanted: Option<Query>,
    is_all: bool,
}

impl Selection {
    /// Reads the filters, within the time and the memory of `cancel`.
    pub(crate) fn compile(
        filters: &[String],
        without: &[String],
        cancel: &mut Cancel,
    ) -> Result<Self> {
        let wanted = Query::compile(filters, cancel)?;
        let unwanted = match without {
            [] => None,
            without => Some(Query::compile(without, cancel).map_err(|e| e.at("without"))?),
        };
        let is_all = filters.is_empty() && unwanted.is_none();
        Ok(Self { wanted, unwanted, is_all })
    }

    /// Whether every image matches.
    pub(crate) fn is_all(&self) -> bool {
        self.is_all
    }

    /// The query of the filters, without those of exclusion.
    pub(crate) fn wanted(&self) -> &Query {
        &self.wanted
    }

    /// The prefix of the names of all matching images.
    pub(crate) fn name_prefix(&self) -> &[u8] {
        self.wanted.as_name_prefix().unwrap_or_default()
    }

    /// The query of the filters, if its plan looks images up by more than the beginning of names.
    pub(crate) fn lookups(&self) -> Option<&Query> {
        let has_lookups = matches!(self.wanted.plan(), QueryPlan::Lookups(_));
        (has_lookups && self.wanted.as_name_prefix().is_none()).then_some(&self.wanted)
    }

    /// Whether an encoded image matches.
    pub(crate) fn matches(
        &self,
        image: &[u8],
        step: &mut impl FnMut() -> Result<()>,
    ) -> Result<bool> {
        if self.is_all {
            return Ok(true);
        }
        if !self.wanted.matches(image, step)? {
            return Ok(false);
        }
        let is_unwanted = self.unwanted.as_ref().map(|query| query.matches(image, step));
        Ok(!is_unwanted.transpose()?.unwrap_or(false))
    }
}

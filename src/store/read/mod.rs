//! Reading.
//!
//! - [`view`]: LMDB's databases under the overlay, as one; [`snapshot_limit`]: how long one may be held
//! - [`state`]: what lookups and scans read of it
//! - [`records`]: looking records up; [`scan`]: walking through them in order
//! - [`lookup`]: the candidates of a filter's plan, by the index
//! - [`count`]: the number of images in a namespace
//! - [`changelog`]: the changes of images, in order
//! - [`audit`]: every record, for `check`; [`log_audit`]: the log, for `check`; [`usage`]: how large the store is

pub(crate) mod audit;
pub(crate) mod changelog;
pub(crate) mod count;
pub(crate) mod log_audit;
pub(crate) mod lookup;
pub(crate) mod records;
pub(crate) mod scan;
pub(crate) mod snapshot_limit;
pub(crate) mod state;
pub(crate) mod usage;
pub(crate) mod view;

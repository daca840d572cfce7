//! Reading.
//!
//! - [`view`]: LMDB's databases under the overlay, as one; [`snapshot_limit`]: how long one may be held
//! - [`state`]: what lookups and scans read of it
//! - [`records`]: looking records up; [`scan`]: walking through them in order
//! - [`lookup`]: the candidates of a filter's plan, by the index
//! - [`changelog`]: the changes of images, in order
//! - [`audit`]: every record, for `check`; [`log_audit`]: the log, for `check`; [`usage`]: how large the store is

pub mod audit;
pub mod changelog;
pub mod log_audit;
pub mod lookup;
pub mod records;
pub mod scan;
pub mod snapshot_limit;
pub(crate) mod state;
pub mod usage;
pub mod view;

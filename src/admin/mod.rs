//! The admin's commands, one a file; [`listed`] is how an image looks as JSON.

pub mod diff;
pub mod export;
pub mod import;
pub mod listed;
pub mod ls;
pub mod stat;

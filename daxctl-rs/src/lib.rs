//! Makes the extent map of a file immutable, and proves that it stayed so.
//!
//! [`verbs`] has one module per verb: it takes options, and returns a [`report::FileReport`] of each file; nothing is
//! printed. Below the verbs are the [`hold`]s; then the facts of a file ([`mod@file`], [`pin::survey`]), what prevents
//! pinning it ([`file::blockers`]), the record of its pin ([`pin::record`]), and what has moved since ([`pin::drift`]).
//!
//! ```
//! use daxfile::verbs::check;
//! use daxfile::{needs::Needs, progress::Silent, status::Status};
//!
//! let mut reports = Vec::new();
//! let status =
//!     check::run(&["/proc/self/status".into()], &Needs::default(), &Silent, &mut |report| reports.push(report));
//! assert_eq!(status, Status::Unable); // procfs has no extents
//! assert_eq!(reports.len(), 1);
//! ```
#![forbid(unsafe_code)]

pub mod bounded;
pub mod error;
pub mod file;
pub mod hold;
pub mod name;
pub mod needs;
pub mod pin;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod size;
pub mod status;
pub mod system;
pub mod verbs;

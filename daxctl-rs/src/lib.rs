//! Makes the extent map of a file immutable, and proves that it stayed so.
//!
//! [`verbs`] holds one module a verb: options in, a [`report::FileReport`] of each file out; nothing is printed. Beneath them lie the
//! [`hold`]s, then what a file is ([`target`], [`survey`]), what stands against pinning it ([`blockers`]), what is kept
//! of it ([`record`]) and what has moved since ([`drift`]).
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

pub mod blockers;
pub mod dax;
pub mod drift;
pub mod error;
pub mod filesystem;
pub mod hold;
pub mod host;
pub mod manifest;
pub mod map;
pub mod mend;
pub mod name;
pub mod needs;
pub mod progress;
pub mod record;
pub mod report;
pub mod sharers;
pub mod size;
pub mod staging;
pub mod status;
pub mod survey;
mod swaps;
pub mod target;
pub mod verbs;
mod zeros;

//! Makes the extent map of a file immutable, and proves that it stayed so.
//!
//! [`verbs`] holds one module a verb: options in, a [`report::FileReport`] of each file out; nothing is printed. Beneath them lie the
//! [`hold`]s, then what a file is ([`file`], [`pin::survey`]), what stands against pinning it ([`file::blockers`]), what is kept
//! of it ([`pin::record`]) and what has moved since ([`pin::drift`]).
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

pub mod error;
pub mod file;
pub mod hold;
pub mod listed;
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

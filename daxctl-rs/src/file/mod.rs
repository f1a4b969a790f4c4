//! A file as it is: what it is called, where its blocks are, and what prevents pinning it. Knows nothing of pins.

pub mod blockers;
pub mod dax;
pub mod layout;
pub mod map;
pub mod open;
pub mod overview;
pub mod sharers;
pub mod staging;
pub mod strip;
pub(crate) mod swap_header;
pub mod target;

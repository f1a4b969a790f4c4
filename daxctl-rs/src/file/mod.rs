//! A file as it is: its name, its blocks, and what prevents pinning it. This module does not know about pins.

pub mod blockers;
pub mod dax;
pub mod layout;
pub mod map;
pub mod open;
pub mod opener;
pub mod overview;
pub mod sharers;
pub mod staging;
pub mod strip;
pub(crate) mod swap_header;
pub mod target;

//! A file's pin: its record, how the map differs from it, and the pin's state. This module only reads files;
//! [`crate::hold`] changes them.

pub mod drift;
pub mod guarded;
pub mod manifest;
pub mod record;
pub mod search;
pub mod state;
pub mod survey;

//! One module per verb. Each takes its options, reports on each file, and returns the exit status. None prints, and none
//! calls another: `each` and `judge` have what several verbs share.

pub mod alloc;
pub mod check;
mod each;
mod judge;
pub mod list;
pub mod map;
pub mod pin;
pub mod prepare;
pub mod probe;
pub mod stat;
pub mod unpin;
pub mod verify;

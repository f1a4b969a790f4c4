//! Calls that fail, disks that fill, crashes at any point, and files made to do harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod exhausted;
mod hibernation;
mod hostile;
mod injection;
mod killed;
mod other_users;
mod pin_crash;
mod prepare_crash;

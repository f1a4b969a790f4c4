//! The pin record: the facts that were true when a file was pinned, kept with the file.

mod digests;
mod format;
mod room;
mod storage;

pub use digests::{Digester, Recorder};
pub use format::{DecodeError, LIMIT, Note, NoteError, Position, Record, RecordedMap};
pub use room::{Facts, Room, room};
pub use storage::{Found, Stored, attribute, find, load, load_for};

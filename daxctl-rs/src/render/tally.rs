//! The number of files per outcome.

use std::fmt::{self, Display, Formatter};

use daxfile::pin::state::State;
use daxfile::report::{Action, FileReport};
use daxfile::status::Status;

use super::text::name;
use crate::cli::Verb;

/// Counts files by outcome.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    kinds: Vec<(Status, &'static str, usize)>,
    /// Files that the work did not reach.
    pub(crate) interrupted: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, verb: &Verb, file: &FileReport) {
        if file.error.as_ref().is_some_and(|error| error.interrupted) {
            self.interrupted += 1;
            return;
        }
        let Some(label) = label(verb, file) else { return };
        let key = (file.exit_status, label);
        match self.kinds.iter_mut().find(|kind| (kind.0, kind.1) == key) {
            Some(kind) => kind.2 += 1,
            None => self.kinds.push((key.0, key.1, 1)),
        }
    }

    pub(crate) fn files(&self) -> usize {
        self.kinds.iter().map(|kind| kind.2).sum()
    }
}

/// Prints the best outcome first.
impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut kinds = self.kinds.clone();
        kinds.sort_by_key(|kind| kind.0);
        let kinds: Vec<_> = kinds.iter().map(|(_, label, files)| format!("{files} {label}")).collect();
        f.write_str(&kinds.join(", "))
    }
}

/// The outcome for a file, in words that can follow a number.
fn label(verb: &Verb, file: &FileReport) -> Option<&'static str> {
    if file.gone {
        return Some("gone");
    }
    match file.exit_status {
        Status::Done | Status::No => {}
        Status::Failed => return Some("failed"),
        Status::Unable => return Some("impossible here"),
        Status::NotPermitted => return Some("not permitted"),
        Status::Busy => return Some("busy"),
    }
    let done = file.exit_status == Status::Done;
    let state = file.pin.as_ref().map(|pin| pin.state);
    Some(match verb {
        Verb::Verify { .. } if done => "unchanged",
        Verb::Verify { against: Some(_), .. } => "different",
        Verb::Verify { .. } if state == Some(State::Pinned) => "shared",
        Verb::Stat { .. } | Verb::List { .. } | Verb::Verify { .. } => name(state?),
        Verb::Check { .. } if done => "pinnable",
        Verb::Check { .. } => "not pinnable",
        _ => match file.action {
            None => "refused",
            Some(Action::Created) => "created",
            Some(Action::WouldCreate) => "would be created",
            Some(Action::Pinned) => "pinned",
            Some(Action::WouldPin) => "would be pinned",
            Some(Action::AlreadyPinned) => "already pinned",
            Some(Action::Unpinned) => "unpinned",
            Some(Action::WouldUnpin) => "would be unpinned",
            Some(Action::AlreadyUnpinned) => "not pinned",
            Some(Action::Prepared) => "prepared",
            Some(Action::WouldPrepare) => "would be prepared",
            Some(Action::AlreadyPrepared) => "with nothing to prepare",
        },
    })
}

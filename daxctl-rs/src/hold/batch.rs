//! Steps that many files take together. Each step covers the whole batch before the next one begins, so that the batch
//! pays once, and not for every file, for what takes time. All processors share a step.

use super::{after_undo, durable};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::pin::survey::Survey;
use crate::progress::Progress;
use crate::system::processors;

/// A file of a batch.
pub(super) trait Member: Send {
    /// The file.
    fn target(&self) -> &Target;
    /// How the pin ended, once it has.
    fn outcome_mut(&mut self) -> &mut Option<Result<Survey>>;
    /// Restores the state in which the file was found.
    fn roll_back(&mut self) -> Result<()>;
    /// Rolls back after a step failed. `again` says that another attempt follows if the file was only busy.
    fn fail(&mut self, error: Error, _again: bool) {
        let error = after_undo(error, self.roll_back());
        *self.outcome_mut() = Some(Err(error));
    }
}

/// The files of one attempt. A file that fails leaves the batch.
pub(super) struct Batch<'b, M> {
    members: Vec<&'b mut M>,
    again: bool,
}

impl<'b, M: Member> Batch<'b, M> {
    pub(super) fn new(members: impl Iterator<Item = &'b mut M>, again: bool) -> Self {
        Batch { members: members.collect(), again }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Performs one step on each file.
    pub(super) fn each(&mut self, progress: &dyn Progress, step: impl Fn(&mut M) -> Result<()> + Sync) {
        let step = |member: &mut M| if progress.interrupted() { Err(interrupted()) } else { step(member) };
        let members: Vec<&mut M> = self.members.iter_mut().map(|member| &mut **member).collect();
        let results = processors::share(members, step);
        self.keep(results);
    }

    /// Performs one step on all files at once, if any are left. The results are in the order of the files.
    pub(super) fn all(&mut self, step: impl FnOnce(&[&Target]) -> Vec<Result<()>>) {
        if self.is_empty() {
            return;
        }
        let targets: Vec<&Target> = self.members.iter().map(|member| member.target()).collect();
        let results = step(&targets);
        self.keep(results);
    }

    /// Makes the last step durable.
    pub(super) fn sync(&mut self) {
        self.all(durable::sync);
    }

    /// Keeps the files for which the step succeeded.
    fn keep(&mut self, results: Vec<Result<()>>) {
        let again = self.again;
        let mut results = results.into_iter();
        self.members.retain_mut(|member| match results.next() {
            Some(Err(error)) => {
                member.fail(error, again);
                false
            }
            Some(Ok(())) | None => true,
        });
    }
}

pub(super) fn interrupted() -> Error {
    Error::interrupted("the file is unchanged")
}

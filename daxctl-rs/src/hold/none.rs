//! Hold `none`: records the map, so that `verify` can detect drift; nothing prevents drift.

use libdaxfile::Errno;
use libdaxfile::fsxattr::Xflags;
use libdaxfile::lease::{Kind, Lease};
use libdaxfile::xattr;

use super::Replaced;
use super::batch::{Batch, Member, interrupted};
use crate::error::{Error, Result};
use crate::file::target::Target;
use crate::needs::{Hold, Needs};
use crate::pin::record::{LIMIT, Record, Stored, attribute};
use crate::pin::survey::{self, Recorded, Survey};
use crate::progress::Progress;
use crate::status::Status;

/// A file whose map is being recorded.
#[derive(Debug)]
pub struct Candidate<'a> {
    target: &'a Target,
    needs: Needs,
    found_as: Recorded,
    /// The record that this process has written, and what it replaced.
    written: Option<(Record, Replaced)>,
    /// The record that would hide it, which this process has removed.
    hiding: Option<Replaced>,
    outcome: Option<Result<Survey>>,
}

impl<'a> Candidate<'a> {
    /// Writes the record. Removes a record in the attribute of enforced holds, which would hide this one.
    fn record(&mut self) -> Result<()> {
        let (target, needs, survey) = (self.target, self.needs, &self.found_as.survey);
        let replaced = Replaced::read(target, needs.hold)?;
        if survey.stored.attribute().is_some_and(|found| found != attribute(needs.hold)) {
            let hiding = Replaced::read(target, Hold::Frozen)?;
            // First, because there may be no room for both.
            xattr::remove(target, attribute(Hold::Frozen)).map_err(|error| {
                not_permitted(error.into(), "removing the record that is in the way needs CAP_SYS_ADMIN")
            })?;
            self.hiding = Some(hiding);
        }
        let (size, note) = (survey.inode.statx.size, self.found_as.note.as_ref());
        let record = super::record(target, needs, Xflags::empty(), &self.found_as)
            .store(target, |limit| survey::recorded_map(target, size, limit, note))
            .map_err(|error| not_permitted(error, "the record needs write access to the file"))?;
        self.written = Some((record, replaced));
        Ok(())
    }

    /// Proves that the record is the file's only one, and that the file is still at its name.
    fn prove(&mut self) -> Result<()> {
        // If nothing writes, a lease proves the map consistent.
        let lease = Lease::take(self.target, Kind::Read).ok();
        let survey = survey::take(self.target, self.needs, lease.as_ref(), |_| ())?;
        // Root and the file's owner take different locks: the one that writes its record second finds the other's.
        if !matches!((&survey.stored, &self.written), (Stored::Own(found), Some((record, _))) if found == record) {
            return Err(Error::new(Status::Busy, "busy: another daxfile pinned or unpinned it meanwhile"));
        }
        self.target.require_named(super::NOT_PINNED)?;
        self.outcome = Some(Ok(survey));
        Ok(())
    }
}

impl Member for Candidate<'_> {
    fn target(&self) -> &Target {
        self.target
    }

    fn outcome_mut(&mut self) -> &mut Option<Result<Survey>> {
        &mut self.outcome
    }

    /// Restores both attributes, unless another process has replaced what this one wrote.
    fn roll_back(&mut self) -> Result<()> {
        let (written, hiding) = (self.written.take(), self.hiding.take());
        if written.is_none() && hiding.is_none() {
            return Ok(());
        }
        if let Some((record, replaced)) = written
            && xattr::get(self.target, replaced.attribute, LIMIT + 1)?.is_some_and(|now| now == record.encode())
        {
            replaced.restore(self.target)?;
        }
        hiding.map_or(Ok(()), |hiding| hiding.restore(self.target))?;
        self.target.fsync()
    }
}

impl<'a> super::Candidate<'a> for Candidate<'a> {
    fn new(target: &'a Target, needs: Needs, found_as: Recorded, _: Option<Record>) -> Self {
        Candidate { target, needs, found_as, written: None, hiding: None, outcome: None }
    }

    /// Records the maps of a batch of files. Each candidate keeps its own outcome.
    fn pin(candidates: &mut [Self], progress: &dyn Progress) {
        let mut batch = Batch::new(candidates.iter_mut(), false);
        batch.each(progress, Candidate::record);
        batch.sync();
        batch.each(progress, Candidate::prove);
    }

    fn outcome(self) -> Result<Survey> {
        self.outcome.unwrap_or_else(|| Err(interrupted()))
    }
}

fn not_permitted(error: Error, why: &str) -> Error {
    match error.errno {
        Some(Errno::EACCES | Errno::EPERM) => error.because(why),
        _ => error,
    }
}

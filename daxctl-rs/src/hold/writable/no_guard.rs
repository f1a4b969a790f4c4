//! A build without the guard.

use super::{MissingPart, Part};
use crate::error::Result;
use crate::file::target::Target;

/// What the guard lacks here.
#[must_use]
pub fn missing_parts() -> Vec<MissingPart> {
    vec![MissingPart::new(Part::Build, "this daxfile was built without the guard (cargo's feature guard)")]
}

pub(super) fn require_trusted_pins() -> Result<()> {
    super::require()
}

pub(super) fn arm(targets: &[&Target]) -> Vec<Result<()>> {
    targets.iter().map(|_| super::require()).collect()
}

pub(super) fn disarm(_: &Target) -> Result<()> {
    super::require()
}

pub(super) fn inodes(_: [u8; 16]) -> Result<Vec<u64>> {
    super::require().map(|()| Vec::new())
}

//! The sharers of a file's blocks: the answer of `check`, against the test's own model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use daxfile_tests::generate::Random;
use daxfile_tests::tools::{require, sh};
use daxfile_tests::{Daxfile, Scratch, Xfs};
use serde_json::Value;

const BLOCK: u64 = 4096;
const FAMILIES: u64 = 100;

/// A file with the identity of the data in each of its blocks. Two blocks of one identity are one block of the device:
/// only cloning copies an identity, and every write makes a new one.
struct Clone {
    path: PathBuf,
    blocks: Vec<Option<u64>>,
}

struct Family {
    number: u64,
    members: Vec<Clone>,
    identities: u64,
    script: Vec<String>,
}

impl Family {
    /// A first file, then clones of that file and of one another, overwritten and deleted here and there.
    fn new(scratch: &Scratch, number: u64, random: &mut Random) -> Family {
        let mut family = Family { number, members: Vec::new(), identities: 0, script: Vec::new() };
        let first = scratch.path(format!("{number}.0"));
        family.members.push(Clone { path: first, blocks: vec![None; 24] });
        family.write(0, 0, 10 + random.below(14));
        for clone in 1..=1 + random.below(5) {
            family.clone_one(scratch, clone, random);
            if random.percent(60) {
                family.overwrite(random);
            }
        }
        for _ in 0..random.below(4) {
            family.overwrite(random);
        }
        if family.members.len() > 1 && random.percent(40) {
            let gone = family.any(random);
            let gone = family.members.remove(gone);
            let link = scratch.path(link_of(&gone.path));
            family.script.push(format!("rm -f '{}' '{}'", gone.path.display(), link.display()));
        }
        sh(family.script.join("\n"));
        family
    }

    fn any(&self, random: &mut Random) -> usize {
        usize::try_from(random.below(self.members.len() as u64)).unwrap()
    }

    fn xfs_io(&mut self, member: usize, command: &str) {
        self.script.push(format!("xfs_io -f -c '{command}' '{}' >/dev/null", self.members[member].path.display()));
    }

    /// A range of a member's blocks.
    fn range(&self, member: usize, random: &mut Random) -> (u64, u64) {
        let blocks = self.members[member].blocks.len() as u64;
        let start = random.below(blocks);
        (start, 1 + random.below((blocks - start).min(8)))
    }

    fn write(&mut self, member: usize, start: u64, length: u64) {
        for block in start..start + length {
            self.identities += 1;
            *self.block(member, block) = Some(self.identities);
        }
        self.xfs_io(member, &format!("pwrite {} {}", start * BLOCK, length * BLOCK));
    }

    fn block(&mut self, member: usize, block: u64) -> &mut Option<u64> {
        let blocks = &mut self.members[member].blocks;
        let block = usize::try_from(block).unwrap();
        blocks.resize(blocks.len().max(block + 1), None);
        &mut blocks[block]
    }

    fn overwrite(&mut self, random: &mut Random) {
        let member = self.any(random);
        let (start, length) = self.range(member, random);
        if random.percent(25) {
            (start..start + length).for_each(|block| *self.block(member, block) = None);
            self.xfs_io(member, &format!("fpunch {} {}", start * BLOCK, length * BLOCK));
        } else {
            self.write(member, start, length);
        }
    }

    fn clone_one(&mut self, scratch: &Scratch, clone: u64, random: &mut Random) {
        let source = self.any(random);
        let directory = match random.below(10) {
            0..5 => scratch.mount_point().to_owned(),
            5..8 => scratch.path("elsewhere"),
            _ => scratch.path("elsewhere/below"),
        };
        let path = directory.join(format!("{}.{clone}", self.number));
        let from = self.members[source].path.display().to_string();
        if random.percent(40) {
            self.script.push(format!("cp --reflink=always '{from}' '{}'", path.display()));
            let blocks = self.members[source].blocks.clone();
            self.members.push(Clone { path, blocks });
            return;
        }
        // A part of the source, within itself or into a file that has other blocks, too; only blocks that it has.
        let member = if random.percent(15) {
            source
        } else {
            self.members.push(Clone { path, blocks: vec![None; 24] });
            self.members.len() - 1
        };
        if member != source {
            self.write(member, 0, 1 + random.below(6));
        }
        let (start, length) = self.range(source, random);
        // The source may be shorter than its model: holes at its end do not belong to the file.
        let written = self.members[source].blocks.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1);
        let length = length.min(written.saturating_sub(start));
        if length == 0 {
            return;
        }
        let to = if member == source { 24 + random.below(8) } else { random.below(30) };
        // Within one file the kernel refuses ranges that overlap (`generic_remap_checks()`).
        let length = if member == source { length.min(to.abs_diff(start)) } else { length };
        if length == 0 {
            return;
        }
        for block in 0..length {
            let identity = *self.block(source, start + block);
            *self.block(member, to + block) = identity;
        }
        let (start, to, length) = (start * BLOCK, to * BLOCK, length * BLOCK);
        self.xfs_io(member, &format!("reflink {from} {start} {to} {length}"));
        if random.percent(20) && member != source {
            let path = self.members[member].path.clone();
            self.script.push(format!("ln '{}' '{}'", path.display(), scratch.path(link_of(&path)).display()));
        }
    }

    /// The sharers of a member's blocks: their numbers, and how many blocks have a sharer.
    fn sharers(&self, member: usize) -> (BTreeSet<usize>, u64) {
        let mut owners: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, member) in self.members.iter().enumerate() {
            member.blocks.iter().flatten().for_each(|&identity| owners.entry(identity).or_default().push(number));
        }
        let own = self.members[member].blocks.iter().flatten();
        let shared: Vec<&Vec<usize>> = own.map(|identity| &owners[identity]).filter(|who| who.len() > 1).collect();
        let others = shared.iter().flat_map(|who| who.iter().copied()).filter(|&other| other != member);
        (others.collect(), shared.len() as u64)
    }
}

fn link_of(path: &Path) -> String {
    format!("{}.link", path.file_name().unwrap().to_str().unwrap())
}

fn shared_blocker(file: &Value) -> Option<&Value> {
    file["blockers"].as_array().unwrap().iter().find(|blocker| blocker["kind"] == "shared")
}

/// Compares the model with `check`, for all families at once.
#[test]
fn sharers_match_expected_owners() {
    require(&["xfs_io"]);
    let random = Random::new("sharers_match_expected_owners");
    let mut scratch = Scratch::new(Xfs { rmapbt: true, ..Xfs::default() });
    fs::create_dir_all(scratch.path("elsewhere/below")).unwrap();
    let families: Vec<Family> =
        (0..FAMILIES).map(|number| Family::new(&scratch, number, &mut random.fork(number))).collect();
    // Deleted files keep their blocks until XFS has done with them, which an unmount awaits.
    scratch.remount();

    let paths = families.iter().flat_map(|family| family.members.iter().map(|member| &member.path));
    let run = paths.fold(Daxfile::new(["check", "--json"]), Daxfile::arg).run();
    let report = run.json();
    let mut files = report["files"].as_array().unwrap().iter();
    let (mut checked, mut alone, mut elsewhere) = (0, 0, 0);
    for family in &families {
        for (number, member) in family.members.iter().enumerate() {
            let file = files.next().unwrap();
            let history = || format!("{file:#}\n{}\n{:?}", member.path.display(), family.script);
            assert_eq!(file["path"], member.path.to_str().unwrap(), "{}", history());
            let (others, blocks) = family.sharers(number);
            let Some(blocker) = shared_blocker(file) else {
                assert_eq!(blocks, 0, "{}", history());
                alone += 1;
                continue;
            };
            assert_eq!(blocker["bytes"], blocks * BLOCK, "{}", history());
            let named: BTreeMap<u64, Option<PathBuf>> = blocker["sharers"]
                .as_array()
                .unwrap_or_else(|| panic!("no sharers: {}", history()))
                .iter()
                .map(|sharer| (sharer["inode"].as_u64().unwrap(), sharer["path"].as_str().map(PathBuf::from)))
                .collect();
            let wanted: BTreeMap<u64, Option<PathBuf>> = others
                .iter()
                .map(|&other| {
                    let path = &family.members[other].path;
                    let link = scratch.path(link_of(path));
                    let here = member.path.parent();
                    let inode = fs::metadata(path).unwrap().ino();
                    let seen = [path, &link].into_iter().filter(|name| name.parent() == here && name.exists()).count();
                    // Any of two names in this directory is right.
                    let says = named.get(&inode).cloned().flatten().filter(|says| says == path || *says == link);
                    (
                        inode,
                        says.filter(|says| seen > 0 && says.parent() == here)
                            .or_else(|| (seen > 0).then(|| path.clone())),
                    )
                })
                .collect();
            assert_eq!(named, wanted, "{}", history());
            elsewhere += named.values().filter(|path| path.is_none()).count();
            checked += named.len();
        }
    }
    // The generator must have made something to be wrong about.
    assert!(checked > 200 && alone > 10 && elsewhere > 30, "{checked} sharers, {elsewhere} elsewhere, {alone} alone");
}

/// More owners' records than one call of the kernel gives.
#[test]
fn sharers_of_many_ranges_are_complete() {
    let scratch = Scratch::new(Xfs { rmapbt: true, ..Xfs::default() });
    let file = scratch.path("file");
    let name = file.display();
    sh(format!(
        "xfs_io -f -c 'pwrite -q 0 20m' -c fsync '{name}'
         touch '{name}'.odd '{name}'.even '{name}'.last '{name}'.none
         for ((i = 0; i < 5000; i++)); do
             ((i % 2)) && echo \"reflink -q {name} $((i * 4))k $((i * 4))k 4k\"
         done | xfs_io '{name}.odd' >/dev/null
         for ((i = 0; i < 5000; i += 2)); do
             echo \"reflink -q {name} $((i * 4))k $((i * 4))k 4k\"
         done | xfs_io '{name}.even' >/dev/null
         xfs_io -c 'reflink -q {name} 20476k 0 4k' '{name}.last'
         xfs_io -c 'pwrite -q 0 4k' '{name}.none'"
    ));
    let run = Daxfile::new(["check", "--json"]).arg(&file).run().expect(1);
    let report = run.json();
    let sharers = shared_blocker(&report["files"][0]).unwrap()["sharers"].as_array().unwrap();
    let named: BTreeSet<(u64, String)> = sharers
        .iter()
        .map(|sharer| (sharer["inode"].as_u64().unwrap(), sharer["path"].as_str().unwrap().to_owned()))
        .collect();
    let wanted = ["odd", "even", "last"].map(|suffix| {
        let path = format!("{name}.{suffix}");
        (fs::metadata(&path).unwrap().ino(), path)
    });
    assert_eq!(named, BTreeSet::from(wanted));
}

/// Where owners are not recorded, or not visible, the key is missing: no reader may take that for "no sharers".
#[test]
fn sharers_are_absent_without_owner_information() {
    for rmapbt in [false, true] {
        let scratch = Scratch::new(Xfs { rmapbt, ..Xfs::default() });
        let file = scratch.path("file");
        sh(format!("xfs_io -f -c 'pwrite -q 0 64k' '{0}'; cp --reflink=always '{0}' '{0}.clone'", file.display()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let check = Daxfile::new(["check", "--json"]).arg(&file);
        for (run, told) in [(check.run(), rmapbt), (check.as_nobody().run(), false)] {
            let report = run.clone().expect(1).json();
            let blocker = shared_blocker(&report["files"][0]).unwrap();
            assert_eq!(blocker.get("sharers").is_some(), told, "{run}");
        }
    }
}

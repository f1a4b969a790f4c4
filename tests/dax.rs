//! Files on persistent memory, which the lab emulates.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use daxfile_tests::child::finish;
use daxfile_tests::tools::{attack, filefrag, flags, on, sh, sha256};
use daxfile_tests::{Kind, Run, Scratch, report, run};
use tempfile::TempDir;

const SIZE: &str = "8M";

/// A filesystem on /dev/pmem0, unmounted when it is dropped.
struct Pmem {
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Pmem {
    fn new(mkfs: &str, options: &str) -> Pmem {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        sh(format!("{mkfs} /dev/pmem0; mount -o {options} /dev/pmem0 '{}'", dir.path().display()));
        Pmem { dir, _turn: turn }
    }
}

impl Drop for Pmem {
    fn drop(&mut self) {
        sh(format!("umount '{}'", self.dir.path().display()));
    }
}

fn map_sync(path: &Path) -> std::process::Output {
    finish(Command::new(attack("sync_map")).arg(path).arg("4096"))
}

/// Whether an access is DAX now, as `statx(2)` tells xfs_io(8).
fn is_dax(path: &Path) -> bool {
    const STATX_ATTR_DAX: u64 = 0x20_0000;
    let raw = sh(on(path, "xfs_io -r -c 'statx -r' $F | sed -n 's/^stat.attributes = 0x//p'"));
    u64::from_str_radix(raw.trim(), 16).unwrap() & STATX_ATTR_DAX != 0
}

fn done(verb: &[&str], path: &Path) -> Run {
    run(verb, path).expect(0)
}

/// The whole life of a pin on a file accessed as DAX.
fn live(path: PathBuf) {
    done(&["alloc", "-s", SIZE], &path);
    assert!(is_dax(&path));
    assert_eq!(report(&["stat"], &path, 0)["file"]["dax"], true);
    done(&["check"], &path);

    let map = filefrag(&path);
    let out = map_sync(&path);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(fs::read(&path).unwrap()[4096..8192], [0x5a; 4096]);
    assert_eq!(filefrag(&path), map);

    let (was, contents) = (flags(&path), sha256(&path));
    done(&["pin"], &path);
    assert!(is_dax(&path));
    assert!(!map_sync(&path).status.success());
    done(&["verify"], &path);
    assert_eq!(report(&["stat"], &path, 0)["pin"]["state"], "pinned");
    done(&["unpin"], &path);

    assert_eq!((flags(&path), sha256(&path), filefrag(&path)), (was, contents, map));
    assert!(is_dax(&path));
    assert!(map_sync(&path).status.success());
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL dax"]
fn xfs_that_is_always_dax_in_the_lab() {
    let pmem = Pmem::new("mkfs.xfs -q -f", "dax=always");
    live(pmem.dir.path().join("file"));
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL dax"]
fn ext4_that_is_always_dax_in_the_lab() {
    let pmem = Pmem::new("mkfs.ext4 -q -F", "dax");
    live(pmem.dir.path().join("file"));
}

/// Each file as its own flag says, which it has from its directory.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL dax"]
fn dax_by_inode_in_the_lab() {
    for mkfs in ["mkfs.xfs -q -f", "mkfs.ext4 -q -F"] {
        let pmem = Pmem::new(mkfs, "dax=inode");
        let with = pmem.dir.path().join("with");
        sh(on(&with, "mkdir $F; xfs_io -c 'chattr +x' $F"));
        live(with.join("file"));

        let without = pmem.dir.path().join("without");
        done(&["alloc", "-s", SIZE], &without);
        assert!(!is_dax(&without));
        assert_eq!(report(&["stat"], &without, 0)["file"]["dax"], false);
        assert!(!map_sync(&without).status.success());
    }
}

/// Otherwise the mapping would prove nothing.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL dax"]
fn no_synchronous_mapping_without_dax_in_the_lab() {
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("file");
    done(&["alloc", "-s", SIZE], &path);
    assert!(!is_dax(&path));
    let out = map_sync(&path);
    assert!(String::from_utf8_lossy(&out.stderr).contains("Operation not supported"), "{out:?}");
}

//! Files on persistent memory, which the lab emulates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use daxfile_tests::child::finish;
use daxfile_tests::tools::{attack, checksum, filefrag, flags, on, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, done, report, run, words_of};
use serde_json::json;
use tempfile::TempDir;

const SIZE: &str = "8M";

const XFS: &str = "mkfs.xfs -q -f";
const EXT4: &str = "mkfs.ext4 -q -F -b 4096";

/// A filesystem on persistent memory, unmounted when it is dropped.
struct Pmem {
    dir: TempDir,
    partitioned: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Pmem {
    /// On /dev/pmem0.
    fn new(mkfs: &str, options: &str) -> Pmem {
        Pmem::on("/dev/pmem0", mkfs, options)
    }

    /// On a partition that begins between multiples of 2 MiB.
    fn on_a_partition(mkfs: &str, options: &str) -> Pmem {
        let turn = turn();
        sh(
            "echo start=2056,size=800000 | sfdisk -q --wipe always /dev/pmem0; until [[ -b /dev/pmem0p1 ]]; do sleep 0.1; done",
        );
        Pmem::mount("/dev/pmem0p1", mkfs, options, true, turn)
    }

    fn on(device: &str, mkfs: &str, options: &str) -> Pmem {
        Pmem::mount(device, mkfs, options, false, turn())
    }

    fn mount(device: &str, mkfs: &str, options: &str, partitioned: bool, turn: MutexGuard<'static, ()>) -> Pmem {
        let dir = tempfile::tempdir().unwrap();
        sh(format!("{mkfs} {device}; mount -o {options} {device} '{}'", dir.path().display()));
        Pmem { dir, partitioned, _turn: turn }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Pmem {
    fn drop(&mut self) {
        sh(format!("umount '{}'", self.dir.path().display()));
        if self.partitioned {
            sh("sfdisk -q --delete /dev/pmem0");
        }
    }
}

/// There is one device, for one test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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

#[track_caller]
fn assert_not_dax(path: &Path) {
    let stat = report(&["stat"], path, 0);
    assert_eq!((&stat["file"]["dax"], &stat["file"]["map_sync"]), (&json!(false), &json!(false)));
    let text = done(&["stat"], path);
    assert!(!text.text().contains("DAX") && !text.text().contains("GiB"), "{text}");
}

/// Checks that DAX has exactly one blocker, and returns its detail and its remedy.
#[track_caller]
fn lacks(kind: &str, status: i32, path: &Path) -> (String, String) {
    let found = report(&["check", "--dax"], path, status)["blockers"].clone();
    assert_eq!(found.as_array().unwrap().iter().map(|one| &one["kind"]).collect::<Vec<_>>(), [kind], "{found:#}");
    assert_eq!((&found[0]["ranges"], &found[0]["bytes"]), (&json!([]), &json!(0)));
    done(&["check"], path);
    for verb in ["pin", "prepare"] {
        let run = run(&[verb, "--dax"], path).expect(status);
        assert!(run.text().contains(&format!("\n  {}: ", words_of(kind))), "{run}");
    }
    let text = |name| found[0][name].as_str().unwrap().to_owned();
    (text("detail"), text("remedy"))
}

/// The whole life of a pin on a file accessed as DAX.
fn live(path: PathBuf) {
    done(&["alloc", "-s", SIZE], &path);
    assert!(is_dax(&path));
    let stat = report(&["stat"], &path, 0);
    assert_eq!((&stat["file"]["dax"], &stat["file"]["map_sync"]), (&json!(true), &json!(true)));
    let text = done(&["stat"], &path);
    assert!(text.text().contains("\n  DAX      with MAP_SYNC; entries of 2 MiB can map "), "{text}");
    done(&["check"], &path);

    let map = filefrag(&path);
    let out = map_sync(&path);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(fs::read(&path).unwrap()[4096..8192], [0x5a; 4096]);
    assert_eq!(filefrag(&path), map);

    let (was, contents) = (flags(&path), checksum(&path));
    done(&["pin"], &path);
    assert!(is_dax(&path));
    assert!(!map_sync(&path).status.success());
    done(&["verify"], &path);
    assert_eq!(report(&["stat"], &path, 0)["pin"]["state"], "pinned");
    done(&["unpin"], &path);

    assert_eq!((flags(&path), checksum(&path), filefrag(&path)), (was, contents, map));
    assert!(is_dax(&path));
    assert!(map_sync(&path).status.success());
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn xfs_that_is_always_dax_in_the_lab() {
    let pmem = Pmem::new(XFS, "dax=always");
    live(pmem.path("file"));
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn ext4_that_is_always_dax_in_the_lab() {
    let pmem = Pmem::new(EXT4, "dax");
    live(pmem.path("file"));
}

/// Each file as its own flag says, which it has from its directory.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn dax_by_inode_in_the_lab() {
    for mkfs in [XFS, EXT4] {
        let pmem = Pmem::new(mkfs, "dax=inode");
        let with = pmem.path("with");
        sh(on(&with, "mkdir $F; xfs_io -c 'chattr +x' $F"));
        live(with.join("file"));

        let without = pmem.path("without");
        done(&["alloc", "-s", SIZE], &without);
        assert!(!is_dax(&without));
        assert_not_dax(&without);
        assert!(!map_sync(&without).status.success());
    }
}

/// Otherwise the mapping would prove nothing.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn no_synchronous_mapping_without_dax_in_the_lab() {
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("file");
    done(&["alloc", "-s", SIZE], &path);
    assert!(!is_dax(&path));
    let out = map_sync(&path);
    assert!(String::from_utf8_lossy(&out.stderr).contains("Operation not supported"), "{out:?}");
}

/// A machine without persistent memory has no DAX.
#[test]
fn a_device_without_dax_is_named() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        done(&["alloc", "-s", SIZE], &path);
        assert_not_dax(&path);
        let (detail, remedy) = lacks("dax_unavailable", 3, &path);
        assert!(detail.contains("device") && remedy.starts_with("cp "), "{detail}: {remedy}");
    }
}

/// The need is kept in the record, and is one of the options that a second pin must repeat.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn dax_is_demanded_and_recorded_in_the_lab() {
    for (mkfs, options) in [(XFS, "dax=always"), (EXT4, "dax=always")] {
        let pmem = Pmem::new(mkfs, options);
        let path = pmem.path("file");
        done(&["alloc", "-s", SIZE], &path);
        for hold in ["frozen", "writable", "none"] {
            for verb in ["check", "prepare", "pin", "pin", "check"] {
                done(&[verb, "--hold", hold, "--dax"], &path);
            }
            for verb in ["check", "pin"] {
                let run = run(&[verb, "--hold", hold], &path).expect(1);
                assert!(run.stderr.contains("already pinned with other options"), "{run}");
            }
            done(&["verify"], &path);
            done(&["unpin"], &path);
        }
    }
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn remedies_of_not_dax_work_in_the_lab() {
    for (mkfs, other_blocks) in [(XFS, "mkfs.xfs -q -f -b size=1024"), (EXT4, "mkfs.ext4 -q -F -b 1024")] {
        let pmem = Pmem::new(mkfs, "dax=inode");
        let (path, used) = (pmem.path("a file"), pmem.path("used"));
        done(&["alloc", "-s", SIZE], &path);
        done(&["alloc", "-s", SIZE], &used);
        let (detail, remedy) = lacks("not_dax", 1, &path);
        assert!(detail.contains("flag is off"), "{detail}");
        sh(remedy);
        assert!(is_dax(&path));
        done(&["check", "--dax"], &path);
        done(&["pin", "--dax"], &path);
        done(&["unpin"], &path);

        // The flag takes effect when the kernel reads the inode again.
        let user = fs::File::open(&used).unwrap();
        sh(on(&used, "chattr +x $F"));
        assert!(!is_dax(&used));
        let (detail, remedy) = lacks("not_dax", 1, &used);
        assert!(detail.contains("while the file was in use"), "{detail}");
        drop(user);
        sh(remedy.strip_prefix("close it in every process, then ").unwrap());
        done(&["check", "--dax"], &used);
        drop(pmem);

        let pmem = Pmem::new(mkfs, "dax=never");
        let path = pmem.path("file");
        done(&["alloc", "-s", SIZE], &path);
        let (journaled, copy) = (pmem.path("journaled"), pmem.path("copy"));
        if mkfs == EXT4 {
            sh(on(&journaled, "touch $F; chattr +j $F; xfs_io -c 'pwrite -q 0 8m' -c fsync $F"));
        }
        let (detail, remedy) = lacks("dax_unavailable", 3, &path);
        assert!(detail.contains("dax=never"), "{detail}");
        sh(remedy);
        done(&["check", "--dax"], &path);
        if mkfs == EXT4 {
            // With delayed allocation ext4 ignores the flag.
            let at = pmem.dir.path().display();
            sh(format!("umount '{at}'; mount -o dax=always,nodelalloc /dev/pmem0 '{at}'"));
            assert!(!is_dax(&journaled));
            let (detail, remedy) = lacks("not_dax", 1, &journaled);
            assert!(detail.contains("dax=always"), "{detail}");
            sh(remedy.replace("NEW", copy.to_str().unwrap()));
            done(&["check", "--dax"], &copy);
        }
        drop(pmem);

        let pmem = Pmem::new(other_blocks, "defaults");
        let path = pmem.path("file");
        done(&["alloc", "-s", SIZE], &path);
        let (detail, _) = lacks("dax_unavailable", 3, &path);
        assert!(detail.contains("blocks of 1024 bytes"), "{detail}");
    }
}

/// DAX on a device that needs an explicit flush.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn persistent_memory_without_map_sync_in_the_lab() {
    let pmem = Pmem::on("/dev/pmem1", EXT4, "dax=always");
    let path = pmem.path("file");
    done(&["alloc", "-s", SIZE], &path);
    assert!(is_dax(&path) && !map_sync(&path).status.success());
    let stat = report(&["stat"], &path, 0);
    assert_eq!((&stat["file"]["dax"], &stat["file"]["map_sync"]), (&json!(true), &json!(false)));
    assert!(done(&["stat"], &path).text().contains("  DAX      without MAP_SYNC; "));
    lacks("no_map_sync", 3, &path);
}

/// The question does not depend on the file's contents or on write access, and does not change the owner's atime.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn map_sync_query_leaves_atime_alone_in_the_lab() {
    for mkfs in [XFS, EXT4] {
        let pmem = Pmem::new(mkfs, "dax=always,strictatime");
        let (path, empty) = (pmem.path("file"), pmem.path("empty"));
        done(&["alloc", "-s", SIZE], &path);
        sh(on(&empty, "touch $F"));
        sh(format!("chmod 755 '{}'", pmem.dir.path().display()));
        let times = || sh(on(&path, "stat --format '%x %y %z' $F"));
        let grants = |run: Run| assert_eq!(run.expect(0).file()["file"]["map_sync"], true);
        let before = times();
        for file in [&path, &empty] {
            grants(run(&["stat", "--json"], file));
        }
        assert_eq!(times(), before);
        // Another user's question changes the access time, like a read.
        grants(Daxfile::new(["stat", "--json"]).arg(&path).as_nobody().run());
        assert_ne!(times(), before);
        sh(format!("mount -o remount,ro '{}'", pmem.dir.path().display()));
        for file in [&path, &empty] {
            grants(run(&["stat", "--json"], file));
        }
    }
}

/// Against the page faults that reading a mapping takes.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem dax"]
fn stat_matches_2_mib_page_table_entries_in_the_lab() {
    const MIB: u64 = 1 << 20;
    // Linux 6.1 mounts no XFS with reflink as DAX on a partition.
    for mkfs in ["mkfs.xfs -q -f -m reflink=0", EXT4] {
        for place in [Pmem::new, Pmem::on_a_partition] {
            let pmem = place(mkfs, "dax=always");
            // The free space begins anywhere.
            sh(format!("xfs_io -f -c 'falloc 0 20k' '{}'", pmem.path("odd").display()));
            let mut pieces = Vec::new();
            for (name, alloc, shift) in [
                ("placed", vec!["-s", "8M", "--align", "2M"], None),
                ("odd size", vec!["-s", "5000001", "--align", "2M"], None),
                ("anywhere", vec!["-s", "9M"], None),
                ("off", vec!["-s", "8M", "--align", "2M"], Some("fcollapse 0 4k")),
                ("off from 6 MiB", vec!["-s", "16M", "--align", "2M"], Some("fcollapse 6m 4k")),
            ] {
                let path = pmem.path(name);
                done(&[&["alloc"], &alloc[..]].concat(), &path);
                if let Some(shift) = shift {
                    sh(on(&path, &format!("xfs_io -c '{shift}' $F")));
                }
                let faults = finish(Command::new(attack("huge")).arg(&path));
                assert!(faults.status.success(), "{faults:?}");
                let huge: u64 = String::from_utf8(faults.stdout).unwrap().trim().parse().unwrap();
                let stat = report(&["stat"], &path, 0);
                let map = filefrag(&path);
                assert_eq!(stat["map"]["mappable_2m"], huge * 2 * MIB, "{mkfs} {name}: {huge} pieces of {map:?}");
                let whole = fs::metadata(&path).unwrap().len() / (2 * MIB) == huge;
                assert!(whole || run(&["check", "--align", "2M"], &path).status == 1, "{mkfs} {name}");
                pieces.push(huge);
            }
            assert_eq!([pieces[0], pieces[1], pieces[3], pieces[4]], [4, 2, 0, 3], "{mkfs}");
        }
    }
}

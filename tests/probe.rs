//! What `probe` says is so: as other programs tell it, and as `pin` finds it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use daxfile_tests::tools::{on, require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs};
use serde_json::Value;

fn probe(path: &Path) -> Value {
    Daxfile::new(["probe", "--json"]).arg(path).run().expect(0).file()["probe"].clone()
}

fn line(script: &str) -> String {
    sh(script).trim().to_owned()
}

fn words(value: &Value) -> BTreeSet<String> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
        .iter()
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

/// The kernel and the mount, as uname(1), findmnt(8) and the kernel's files have them.
#[track_caller]
fn is_so(place: &Path) -> Value {
    require(&["findmnt", "blkid"]);
    let said = probe(place);
    assert_eq!(said["kernel"], line("uname -r"));
    assert_eq!(said["lease_break_time"].to_string(), line("cat /proc/sys/fs/lease-break-time"));
    let lsm = line("cat /sys/kernel/security/lsm 2>/dev/null || :");
    let told =
        said["lsm"].as_array().map(|list| list.iter().map(|lsm| lsm.as_str().unwrap()).collect::<Vec<_>>().join(","));
    assert_eq!(told.unwrap_or_default(), lsm);

    let filesystem = &said["filesystem"];
    let findmnt = |column: &str| {
        line(&on(place, &format!("findmnt --noheadings --raw --output {column} --target $F | tail -n 1")))
    };
    assert_eq!(filesystem["name"], findmnt("FSTYPE"));
    assert_eq!(filesystem["mount"]["point"], findmnt("TARGET"));
    assert_eq!(filesystem["mount"]["source"], findmnt("SOURCE"));
    let options: BTreeSet<String> = findmnt("OPTIONS").split(',').map(str::to_owned).collect();
    assert_eq!(words(&filesystem["mount"]["options"]), options);
    said
}

/// Whether pins on a new file there end as was said.
#[track_caller]
fn pins_end_so(place: &Path, call: impl Fn(&mut Daxfile)) {
    let file = place.join("file");
    sh(on(&file, "test -e $F || { head -c 64K /dev/zero >$F; chown 65534:65534 $F; sync $F; }"));
    for hold in ["frozen", "writable", "none"] {
        let run = |args: &[&str], path: &Path| -> Run {
            let mut daxfile = Daxfile::new(args).arg(path);
            call(&mut daxfile);
            daxfile.run()
        };
        let said = run(&["probe", "--hold", hold], &file);
        let pinned = run(&["pin", "--hold", hold], &file);
        assert_eq!(said.status, pinned.status, "{said}\n{pinned}");
        assert!(matches!(said.status, 0 | 3 | 4), "{said}");
        // Without --hold, looking is all that was asked.
        run(&["probe"], &file).expect(0);
        if pinned.status == 0 {
            run(&["unpin"], &file).expect(0);
        }
    }
}

#[test]
fn what_is_said_of_a_place_is_so() {
    sh("mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security || :");
    let xfs = Xfs { rmapbt: true, ..Xfs::default() };
    for kind in [xfs.into(), Kind::ext4(), Kind::Btrfs] {
        let mut scratch = Scratch::new(kind);
        let place = scratch.mount_point().to_owned();
        let said = is_so(&place);
        // btrfs tells its UUID by an ioctl of its own only.
        if *scratch.kind() != Kind::Btrfs {
            let blkid = format!("blkid -p -o value -s UUID {}", scratch.device().display());
            assert_eq!(said["filesystem"]["uuid"], line(&blkid));
            let layer = &said["devices"][0];
            assert_eq!(
                (&layer["kind"], &layer["backing_file"]),
                (&"loop".into(), &scratch.image().to_str().unwrap().into())
            );
            assert_eq!(layer["device"], line(&format!("stat -c '%Hr:%Lr' {}", scratch.device().display())));
        }
        let features = words(&said["filesystem"]["features"]);
        assert_eq!(features.contains("rmapbt"), scratch.kind().name() == "xfs", "{features:?}");
        pins_end_so(&place, |_| ());
        pins_end_so(&place, |daxfile| *daxfile = daxfile.clone().as_nobody());
        scratch.remount_with("ro");
        let said = Daxfile::new(["probe", "--hold", "none"]).arg(&place).run().expect(3);
        assert!(said.text().contains("none: no, "), "{said}");
    }
}

#[test]
fn overlayfs_and_tmpfs_hold_nothing() {
    let scratch = Scratch::new(Kind::ext4());
    let at = scratch.mount_point().display().to_string();
    let over = scratch.path("over");
    sh(format!(
        "cd '{at}'; mkdir lower upper work over; mount -t overlay over -o lowerdir=lower,upperdir=upper,workdir=work over"
    ));
    let shm = tempfile::Builder::new().prefix("daxfile-tests.").tempdir_in("/dev/shm").unwrap();
    let checked = std::panic::catch_unwind(|| {
        for place in [&*over, shm.path()] {
            let said = is_so(place);
            assert_eq!(said["devices"], serde_json::json!([]));
            for hold in said["holds"].as_array().unwrap() {
                assert_eq!(hold["exit_status"], 3, "{hold}");
            }
            pins_end_so(place, |_| ());
        }
    });
    sh(format!("umount '{}'", over.display()));
    checked.unwrap();
}

#[test]
fn what_a_user_namespace_gives_is_not_enough() {
    let scratch = Scratch::new(Kind::xfs());
    let said = Daxfile::new(["probe", "--hold", "frozen"])
        .arg(scratch.mount_point())
        .wrap(["unshare", "--user", "--map-root-user"])
        .run()
        .expect(4);
    assert!(said.text().contains("outside of any user namespace"), "{said}");
}

/// A device-mapper device on a partition of a loop device.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL probe"]
fn a_stack_of_devices_in_the_lab() {
    require(&["sfdisk", "losetup", "dmsetup", "mkfs.ext4"]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let said = sh(format!(
        "export DM_DISABLE_UDEV=1; truncate -s 400M '{at}/disk'; echo '2048,,L' | sfdisk -q '{at}/disk'
         loop=$(losetup --show --find --partscan '{at}/disk'); trap 'losetup --detach $loop' EXIT
         for ((i = 0; i < 100; i++)); do test -b ${{loop}}p1 && break; sleep 0.05; done
         echo \"0 $(blockdev --getsz ${{loop}}p1) linear ${{loop}}p1 0\" | dmsetup create daxfile-stack
         trap 'umount {at}/mnt; dmsetup remove --retry daxfile-stack; losetup --detach $loop' EXIT
         mkfs.ext4 -q /dev/mapper/daxfile-stack; mkdir '{at}/mnt'; mount /dev/mapper/daxfile-stack '{at}/mnt'
         '{}' probe --json '{at}/mnt'",
        Daxfile::new([""; 0]).command().get_program().display()
    ));
    let said: Value = serde_json::from_str(&said).unwrap();
    let devices = &said["files"][0]["probe"]["devices"];
    let kinds: Vec<_> = devices.as_array().unwrap().iter().map(|layer| layer["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["device_mapper", "partition", "loop"]);
    assert_eq!(devices[0]["mapped_name"], "daxfile-stack");
    assert_eq!(devices[1]["start"], 2048 * 512);
    assert_eq!(devices[2]["backing_file"], dir.path().join("disk").to_str().unwrap());
}

#[test]
fn what_is_no_place() {
    let scratch = Scratch::new(Kind::ext4());
    let at = scratch.mount_point();
    sh(format!("cd '{}'; mkfifo fifo; ln -s . link; mkdir secret; chmod 700 secret", at.display()));
    let timed = |path: &Path| Daxfile::new(["probe"]).arg(path).wrap(["timeout", "--kill-after=1", "20"]);
    for (name, why) in [
        ("fifo", "not a regular file"),
        ("link", "a symbolic link"),
        ("none", "No such file or directory"),
        ("none/below", "No such file or directory"),
    ] {
        let run = timed(&at.join(name)).run().expect(2);
        assert!(run.stderr.contains(why) && run.text().is_empty(), "{run}");
    }
    timed(&at.join("secret")).as_nobody().run().expect(4);
    timed(Path::new("")).run().expect(2);

    let odd = at.join(OsStr::from_bytes(b"\x1b[31mcaf\xe9 \n"));
    std::fs::create_dir(&odd).unwrap();
    let run = timed(&odd).run().expect(0);
    assert!(!run.text().contains('\x1b'), "{run}");
    let report = Daxfile::new(["probe", "--json"]).arg(&odd).run().expect(0).file();
    assert!(report["path"]["bytes"].is_string(), "{report}");
    // The place is where one is, unless it is named.
    assert!(Daxfile::new(["probe"]).dir(at).run().expect(0).text().starts_with(".\n"));
}

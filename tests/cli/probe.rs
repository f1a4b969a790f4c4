//! `probe` is right: its answers match other programs and the result of `pin`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use daxfile_tests::tools::{filefrag, on, require, sh, sh_status};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs, wait_until};
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
    // Where the kernel does not tell them, they are unknown, not none: see probe_reads_the_active_lsms_in_the_lab.
    if !Path::new("/sys/kernel/security/lsm").exists() {
        assert_eq!((&said["lsm"], &said["lockdown"]), (&Value::Null, &Value::Null));
    }

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
        // Without --hold, only the examination can fail.
        run(&["probe"], &file).expect(0);
        if pinned.status == 0 {
            run(&["unpin"], &file).expect(0);
        }
    }
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL cli probe"]
fn probe_reads_the_active_lsms_in_the_lab() {
    let said = probe(Path::new("/"));
    let told: Vec<_> = said["lsm"].as_array().unwrap().iter().map(|lsm| lsm.as_str().unwrap()).collect();
    assert_eq!(told.join(","), line("cat /sys/kernel/security/lsm"));
    assert!(told.contains(&"bpf"), "{told:?}");
    let lockdown = line("cat /sys/kernel/security/lockdown");
    assert!(lockdown.contains(&format!("[{}]", said["lockdown"].as_str().unwrap())), "{lockdown}");
}

#[test]
fn probe_matches_pin() {
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
        // On ext4 and btrfs the features are unknown, which differs from none.
        match scratch.kind() {
            Kind::Xfs(_) => assert!(words(&said["filesystem"]["features"]).contains("rmapbt"), "{said}"),
            _ => assert!(said["filesystem"]["features"].is_null(), "{said}"),
        }
        pins_end_so(&place, |_| ());
        pins_end_so(&place, |daxfile| *daxfile = daxfile.clone().as_nobody());
        scratch.remount_with("ro");
        let said = Daxfile::new(["probe", "--hold", "none"]).arg(&place).run().expect(3);
        assert!(said.text().contains("none: no, "), "{said}");
    }
}

/// The text has the deciding requirement, the JSON has all.
#[test]
fn first_missing_requirement_sets_status() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    sh(on(&file, ": >$F; chown 65534:65534 $F"));
    for nobody in [false, true] {
        let run = |args: &[&str]| {
            let daxfile = Daxfile::new(args).arg(&file);
            if nobody { daxfile.as_nobody() } else { daxfile }.run().expect(0)
        };
        let text = run(&["probe"]);
        for hold in run(&["probe", "--json"]).file()["probe"]["holds"].as_array().unwrap() {
            let lacks = hold["lacks"].as_array().unwrap();
            assert_eq!(hold["missing"], *lacks.first().unwrap_or(&Value::Null));
            assert_eq!(hold["exit_status"] == 0, lacks.is_empty(), "{hold}");
            let name = hold["hold"].as_str().unwrap();
            let says = hold["missing"].as_str().map_or("yes".into(), |missing| format!("no, {missing}"));
            let line = format!(" {name}: {says}");
            assert!(text.text().lines().any(|said| said.ends_with(&line)), "{line}: {text}");
            if name == "writable" && nobody {
                assert!(lacks.iter().any(|lack| lack == "needs CAP_SYS_ADMIN") && lacks.len() > 1, "{hold}");
            }
        }
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
fn userns_capabilities_are_not_enough() {
    let scratch = Scratch::new(Kind::xfs());
    let said = Daxfile::new(["probe", "--hold", "frozen"])
        .arg(scratch.mount_point())
        .wrap(["unshare", "--user", "--map-root-user"])
        .run()
        .expect(4);
    assert!(said.text().contains("in the initial user namespace"), "{said}");
}

/// Below a filesystem in the lab: device-mapper's tables for a device on a partition of a loop device. Each is made of
/// `$part`, the partition, and of `$top`, the device made before.
struct Stack {
    dir: tempfile::TempDir,
    names: Vec<String>,
    loop_device: String,
}

impl Stack {
    fn new(tables: &[&str]) -> Stack {
        require(&["sfdisk", "losetup", "dmsetup", "mkfs.ext4"]);
        let dir = tempfile::tempdir().unwrap();
        let mut stack = Stack { dir, names: Vec::new(), loop_device: String::new() };
        let at = stack.dir.path().display();
        let loop_device = line(&format!(
            "truncate -s 400M '{at}/disk'; echo '2048,,L' | sfdisk -q '{at}/disk'
             losetup --show --find --partscan '{at}/disk'"
        ));
        stack.loop_device.clone_from(&loop_device);
        let part = format!("{loop_device}p1");
        // Other tests that run at the same time use other names.
        let prefix = loop_device.replace("/dev/", "daxfile-");
        wait_until("the partition is there", || Path::new(&part).exists());
        let mut top = part.clone();
        for (number, table) in tables.iter().enumerate() {
            let name = format!("{prefix}-{number}");
            let table = table.replace("$part", &part).replace("$top", &top);
            sh(format!("export DM_DISABLE_UDEV=1; printf '{table}' | dmsetup create {name}"));
            top = format!("/dev/mapper/{name}");
            stack.names.push(name);
        }
        let at = stack.dir.path().display();
        sh(format!("mkfs.ext4 -q {top}; mkdir '{at}/mnt'; mount {top} '{at}/mnt'"));
        stack
    }

    fn probe(&self, call: impl Fn(Daxfile) -> Daxfile) -> Run {
        call(Daxfile::new(["probe", "--json"])).arg(self.dir.path().join("mnt")).run().expect(0)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let at = self.dir.path().display();
        let _ = sh_status(format!("umount '{at}/mnt'"));
        for name in self.names.iter().rev() {
            let _ = sh_status(format!("DM_DISABLE_UDEV=1 dmsetup remove --retry {name}"));
        }
        let _ = sh_status(format!("losetup --detach {}", self.loop_device));
    }
}

fn devices(said: &Run) -> Vec<Value> {
    said.file()["probe"]["devices"].as_array().unwrap().clone()
}

fn kinds(devices: &[Value]) -> Vec<&str> {
    devices.iter().map(|layer| layer["kind"].as_str().unwrap()).collect()
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL cli probe"]
fn a_stack_of_devices_is_followed_in_the_lab() {
    let stack = Stack::new(&["0 614400 linear $part 2048", "0 409600 linear $top 8"]);
    let all = devices(&stack.probe(|daxfile| daxfile));
    assert_eq!(kinds(&all), ["device_mapper", "device_mapper", "partition", "loop"]);
    for (layer, name, start) in [(&all[0], &stack.names[1], 8 * 512), (&all[1], &stack.names[0], 2048 * 512)] {
        assert_eq!((&layer["mapped_name"], &layer["start"]), (&name.as_str().into(), &Value::from(start)));
        assert_eq!(layer["targets"], serde_json::json!(["linear"]));
    }
    assert_eq!(all[2]["start"], 2048 * 512);
    let disk = stack.dir.path().join("disk");
    assert_eq!(all[3]["backing_file"], disk.to_str().unwrap());

    // The sum of the starts leads to the byte.
    let file = stack.dir.path().join("mnt/file");
    sh(on(&file, "head -c 4096 /dev/urandom >$F; sync $F"));
    let below: u64 = all.iter().filter_map(|layer| layer["start"].as_u64()).sum();
    let at = (below + filefrag(&file)[0].physical) / 512;
    let there = format!("dd if='{}' bs=512 skip={at} count=8 status=none", disk.display());
    sh(format!("sync; {there} | cmp - '{}'", file.display()));

    // A caller that may not ask device-mapper does not see the layers below.
    let told = devices(&stack.probe(Daxfile::as_nobody));
    assert_eq!((kinds(&told), &told[0]["targets"]), (vec!["device_mapper"], &Value::Null));
    let text = Daxfile::new(["probe"]).arg(stack.dir.path().join("mnt")).as_nobody().run().expect(0);
    assert!(text.text().contains("targets unknown: needs CAP_SYS_ADMIN"), "{text}");
}

/// A device below may not have this device's bytes in the same order, or not at all.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL cli probe"]
fn device_stack_ends_where_offsets_are_ambiguous_in_the_lab() {
    let ends = |tables: &[&str], targets: &[&str]| {
        let stack = Stack::new(tables);
        let told = devices(&stack.probe(|daxfile| daxfile));
        assert_eq!((kinds(&told), &told[0]["targets"]), (vec!["device_mapper"], &serde_json::json!(targets)));
        assert!(told[0]["start"].is_null(), "{told:?}");
        let slaves = sh(format!("ls /sys/dev/block/{}/slaves", told[0]["device"].as_str().unwrap()));
        assert_eq!(slaves.lines().count(), 1, "what has several is no trap: {slaves}");
    };
    ends(&["0 409600 striped 2 128 $part 0 $part 307200"], &["striped"]);
    ends(&["0 204800 linear $part 204800\n204800 204800 linear $part 0"], &["linear", "linear"]);
    ends(&["0 409600 crypt cipher_null-ecb - 0 $part 0"], &["crypt"]);
}

/// On a terminal text is folded at spaces, and nothing gets lost; elsewhere a line is a line.
#[test]
fn narrow_terminal_loses_no_text() {
    require(&["script", "stty"]);
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    sh(on(
        &file,
        "xfs_io -f -c 'truncate 64m' -c 'pwrite -q 1m 4k' -c 'falloc 3m 1m' -c fsync $F; cp --reflink=always $F $F.copy",
    ));
    let program = Daxfile::new([""; 0]).command().get_program().display().to_string();
    for verb in ["probe", "check", "stat"] {
        // Names are not folded.
        let piped = Daxfile::new([verb, "file"]).dir(scratch.mount_point()).run();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        // The output of stat for a file fits.
        let narrow = if verb == "stat" { 80 } else { 50 };
        for (columns, color) in [(80, "never"), (narrow, "never"), (narrow, "always")] {
            let command = format!("stty rows 24 cols {columns}; {program} {verb} --color {color} file");
            let at = scratch.mount_point().display();
            let shown = sh(format!("cd '{at}'; script -qec '{command}' /dev/null </dev/null || :")).replace('\r', "");
            let mut plain = String::new();
            for piece in shown.split('\x1b').enumerate() {
                plain += if piece.0 == 0 { piece.1 } else { piece.1.split_once('m').unwrap().1 };
            }
            assert_eq!(color == "always", plain != shown, "{shown}");
            assert_eq!(words(&plain), words(piped.text()), "{columns}");
            // A size stays on one line with its place, and no colour is invisible on white or black.
            assert!(!plain.lines().any(|line| line.ends_with(" at")), "{plain}");
            assert!(!["33", "34", "36"].iter().any(|pale| shown.contains(&format!("\x1b[{pale}m"))), "{shown}");
            for line in plain.lines().filter(|line| line.chars().count() > columns) {
                // Commands are for copying, and the picture of a map has its size.
                let whole =
                    line.starts_with("    remedy: ") || line.contains('[') || line.trim().split(' ').count() <= 2;
                assert!(whole, "longer than {columns}: {line}");
            }
        }
        assert!(verb == "stat" || piped.text().lines().any(|line| line.chars().count() > 80), "{piped}");
    }
}

#[test]
fn probe_refuses_other_file_types() {
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

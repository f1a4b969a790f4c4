//! Other programs find the file's bytes by the output of `map`.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use daxfile_tests::generate::{Generated, Random};
use daxfile_tests::tools::{checksum, filefrag, on, require, sh, sh_status};
use daxfile_tests::{Daxfile, Ext4, Kind, Run, Scratch, Xfs, on_each, report, run};
use nix::sys::stat::{major, minor};

const SECTOR: u64 = 512;

fn table(file: &Path) -> Run {
    run(&["map", "--format", "dmsetup"], file)
}

fn resume(file: &Path) -> Run {
    run(&["map", "--format", "resume"], file)
}

/// The lines of a table: start, length, device, offset; in sectors.
fn lines(table: &Run) -> Vec<(u64, u64, String, u64)> {
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|e| panic!("{word}: {e}: {table}"));
    let line = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [start, length, "linear", device, offset] => (number(start), number(length), device.to_owned(), number(offset)),
        _ => panic!("no line of a table: {line}"),
    };
    table.text().lines().map(line).collect()
}

fn number_of(device: &Path) -> String {
    let number = device.metadata().unwrap().rdev();
    format!("{}:{}", major(number), minor(number))
}

/// The contents of a table's sectors, read from a copy of the device.
fn through(table: &Run, scratch: &Scratch, copy: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (start, length, number, offset) in lines(table) {
        assert_eq!(start * SECTOR, bytes.len() as u64, "a gap: {table}");
        assert_eq!(number, number_of(scratch.device()), "{table}");
        let mut piece = vec![0; usize::try_from(length * SECTOR).unwrap()];
        copy.read_exact_at(&mut piece, offset * SECTOR).unwrap();
        bytes.extend(piece);
    }
    bytes
}

#[test]
fn table_maps_the_sectors_of_the_file() {
    const FILES: usize = 50;
    let random = Random::new("map");
    let kinds = Kind::pinnable();
    let share = FILES.div_ceil(kinds.len());
    on_each(kinds.clone(), |kind| {
        let number = kinds.iter().position(|other| *other == kind).unwrap();
        let mut random = random.fork(number as u64);
        let scratch = Scratch::new(kind);
        let made = (0..share).map(|number| {
            let path = scratch.path(format!("file.{number}"));
            Generated::new(&path).work(&scratch, &mut random, &[], 60);
            sh(on(&path, "truncate -s %512 $F"));
            run(&["prepare"], &path).expect(0);
            run(&["pin"], &path).expect(0);
            let table = table(&path).expect(0);
            assert_eq!(lines(&table).len(), filefrag(&path).len());
            (path, table)
        });
        let made: Vec<_> = made.collect();
        // Bypasses the device's page cache, which does not see the filesystem's writes.
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let (device, at) = (scratch.device().display(), copy.display());
        sh(format!("sync; dd if={device} of={at} bs=4M iflag=direct conv=sparse status=none"));
        let copy = File::open(copy).unwrap();
        for (path, table) in &made {
            assert!(through(table, &scratch, &copy) == fs::read(path).unwrap(), "{}: {table}", path.display());
        }
        let extents: usize = made.iter().map(|(_, table)| lines(table).len()).sum();
        assert!(extents > 2 * share, "too few extents for this to say much");
    });
}

#[test]
fn resume_offset_matches_filefrag() {
    on_each(vec![Kind::xfs(), Kind::ext4(), Kind::Xfs(Xfs { block_size: 1024, ..Xfs::default() })], |kind| {
        let scratch = Scratch::new(kind);
        let path = scratch.path("swap");
        // Otherwise the first block of the smallest could be within a page.
        run(&["alloc", "-s", "16M", "--align", "4K"], &path).expect(0);
        run(&["pin"], &path).expect(0);
        let uuid = sh(format!("blkid -p -o value -s UUID {}", scratch.device().display()));
        let offset = filefrag(&path)[0].physical / 4096;
        assert_eq!(resume(&path).expect(0).text(), format!("resume=UUID={} resume_offset={offset}\n", uuid.trim()));
        let mapping = report(&["map", "--format", "resume"], &path, 0)["mapping"].clone();
        assert_eq!((&mapping["resume_offset"], &mapping["page_size"]), (&offset.into(), &4096.into()));
        assert_eq!(mapping["device"], number_of(scratch.device()));
    });
}

/// The kernel holds the map of an active swapfile, and pin keeps away from it.
#[test]
fn an_active_swapfile_can_be_resumed_from() {
    require(&["mkswap", "swapon", "swapoff"]);
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("swap");
    // Not every block of a swapfile is ever written.
    sh(on(&path, "fallocate -l 16M $F; chmod 600 $F; mkswap -q $F; swapon $F"));
    let offset = filefrag(&path)[0].physical / 4096;
    let told = run(&["map", "--format", "resume", "--unpinned"], &path);
    let refused = run(&["map", "--format", "dmsetup", "--unpinned"], &path);
    sh(on(&path, "swapoff $F"));
    assert!(told.clone().expect(0).text().ends_with(&format!(" resume_offset={offset}\n")), "{told}");
    assert!(refused.clone().expect(5).stderr.contains("unwritten, swapfile"), "{refused}");
}

#[test]
fn resume_compare_finds_stale_settings() {
    require(&["unshare"]);
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let path = scratch.path("swap");
        run(&["alloc", "-s", "1M", "--align", "4K"], &path).expect(0);
        run(&["pin", "--hold", "none"], &path).expect(0);
        let place = resume(&path).expect(0).text().trim().to_owned();
        let mapping = report(&["map", "--format", "resume"], &path, 0)["mapping"].clone();
        let (device, offset) = (mapping["device"].as_str().unwrap(), mapping["resume_offset"].as_u64().unwrap());
        let stale = offset + 7;
        let uuid = place.split(' ').next().unwrap();
        let other = "resume=UUID=01234567-89ab-cdef-0123-456789abcdef";
        let unset = ("0:0", 0);
        let name = scratch.device().display();
        // Status, and in which of the two places something differs.
        for (line, power, status, differs) in [
            (format!("quiet {place}"), (device, offset), 0, ""),
            (format!("{place} quiet"), unset, 0, ""),
            (format!("resume=/dev/nonesuch resume_offset=1 {place}"), unset, 0, ""),
            (format!("{} resume_offset={offset}", uuid.to_uppercase().replace("RESUME=", "resume=")), unset, 0, ""),
            (format!("resume={name} resume_offset={offset}"), unset, 0, ""),
            (format!("resume={device} resume_offset={offset}"), unset, 0, ""),
            ("quiet".into(), (device, offset), 0, ""),
            // An initramfs may have the device from elsewhere.
            (format!("resume_offset={offset}"), (device, offset), 0, ""),
            (format!("{uuid} resume_offset={stale}"), (device, stale), 1, "cp"),
            (format!("{uuid} resume_offset={stale}"), (device, offset), 1, "c"),
            (place.clone(), (device, stale), 1, "p"),
            (place.clone(), ("0:1", offset), 1, "p"),
            (uuid.to_owned(), unset, 1, "c"),
            (format!("{other} resume_offset={offset}"), unset, 1, "c"),
            (format!("resume=/dev/nonesuch resume_offset={offset}"), unset, 1, "c"),
            (format!("resume=/dev/null resume_offset={offset}"), unset, 1, "c"),
            (format!("{place} noresume"), (device, offset), 1, "c"),
            ("quiet".into(), unset, 1, ""),
            (format!("x=\"{place}\" -- {place}"), unset, 1, ""),
            (format!("resume_offset={offset}"), ("0:0", offset), 1, ""),
        ] {
            let compare = Daxfile::new(["map", "--format", "resume", "--compare"]).arg(&path);
            let told = compare.clone().resuming_from(&line, power.0, power.1).run().expect(status);
            let text = told.text();
            let lines: Vec<_> = text.lines().collect();
            let [first, file, command_line, sysfs] = lines[..] else { panic!("{told}") };
            let says = if status == 0 { ": the kernel is set to resume" } else { ": the kernel is not set to resume" };
            assert!(first.contains(says), "{line}: {told}");
            assert!(file.contains(&format!("{place} (device {device})")), "{told}");
            for (source, letter, told_there) in [("/proc/cmdline", 'c', command_line), ("/sys/power", 'p', sysfs)] {
                assert!(told_there.trim().starts_with(source), "{told}");
                assert_eq!(told_there.ends_with(": differs"), differs.contains(letter), "{line}: {told}");
            }
            if line.ends_with(&format!("resume_offset={stale}")) {
                assert!(command_line.ends_with(&format!("resume_offset={stale}: differs")), "{told}");
            }
            let json = compare.arg("--json").resuming_from(&line, power.0, power.1).run().expect(status).file();
            let matches = |source: usize| json["mapping"]["settings"][source]["matches"] == false;
            assert_eq!([matches(0), matches(1)], ["c", "p"].map(|letter| differs.contains(letter)), "{json}");
        }
        // The answer is an error, not yes or no.
        let compare = Daxfile::new(["map", "--format", "resume", "--compare"]).arg(&path);
        let odd = compare.clone().resuming_from(&format!("resume=swap resume_offset={offset}"), "0:0", 0).run();
        refused(odd, 2, "resume=swap: daxfile cannot resolve");
        let script = "mount -t tmpfs none /sys/power; exec \"$0\" \"$@\"";
        let unable = compare.clone().wrap(["unshare", "--mount", "bash", "-euc", script]).run();
        refused(unable, 3, "this kernel has no hibernation");
        refused(run(&["map", "--format", "dmsetup", "--compare"], &path), 2, "--compare requires --format resume");
        run(&["unpin"], &path).expect(0);
        refused(compare.resuming_from(&place, device, offset).run(), 1, "not pinned");
    });
}

/// Standard output has a table or nothing, because a shell puts it on another program's command line.
#[track_caller]
fn refused(run: Run, status: i32, why: &str) {
    let run = run.expect(status);
    assert_eq!(run.text(), "");
    assert!(run.stderr.contains(why), "expected {why}: {run}");
}

#[test]
fn map_refuses_files_that_can_move() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        run(&["alloc", "-s", "1M"], &path).expect(0);
        refused(table(&path), 1, "not pinned, so its blocks may move");
        let free = run(&["map", "--format", "dmsetup", "--unpinned"], &path).expect(0);
        run(&["pin", "--hold", "none"], &path).expect(0);
        assert_eq!(table(&path).expect(0).text(), free.text());

        sh(on(&path, "xfs_io -c 'fpunch 64k 64k' -c fsync $F"));
        refused(table(&path), 1, "drifted: see daxfile verify");
        run(&["unpin"], &path).expect(0);
        run(&["prepare"], &path).expect(0);
        run(&["pin"], &path).expect(0);
        sh(on(&path, "chattr -i $F"));
        refused(resume(&path), 1, "not pinned");
    });
}

#[test]
fn map_refuses_bytes_without_a_place() {
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("file");
    let pin = || run(&["pin", "--allow", "hole,unwritten,shared,empty"], &path).expect(0);
    let anew = |script: &str| {
        run(&["unpin"], &path);
        sh(on(&path, &format!("rm -f $F; {script}")));
        pin();
    };
    anew("truncate -s 1M $F");
    refused(table(&path), 1, "hole: daxfile check says where");
    refused(resume(&path), 1, "hole");
    anew("fallocate -l 1M $F");
    refused(table(&path), 1, "unwritten");
    anew("head -c 1M /dev/zero >$F; sync $F; cp --reflink=always $F $F.copy");
    // The blocks stay in place, but a user that writes to them there must know. (check and pin print "pinned", too.)
    for run in [table(&path), resume(&path)] {
        let run = run.expect(0);
        assert!(run.stderr.contains("note: 1 MiB shared with other files") && !run.text().is_empty(), "{run}");
    }
    anew(": >$F");
    refused(table(&path), 1, "empty");
    anew("head -c 8191 /dev/zero >$F; sync $F");
    refused(table(&path), 1, "its size, 8191, is not a multiple of the device's block size, 512");
    let blockers = report(&["map", "--format", "dmsetup"], &path, 1);
    assert!(blockers["mapping"].is_null() && blockers["error"]["call"].is_null(), "{blockers}");
    run(&["unpin"], &path).expect(0);

    let btrfs = Scratch::new(Kind::Btrfs);
    let path = btrfs.path("file");
    sh(on(&path, "head -c 1M /dev/zero >$F; sync $F"));
    for unpinned in [&[][..], &["--unpinned"]] {
        let run = run(&[&["map", "--format", "resume"], unpinned].concat(), &path);
        refused(run.clone(), 3, "relied on with btrfs");
        assert!(run.stderr.contains("'btrfs inspect-internal map-swapfile "), "{run}");
    }
    let table = table(&path);
    assert!(!table.stderr.contains("map-swapfile"), "{table}");
}

/// The kernel accepts the table. The filesystem is unmounted, because a mounted one has the device to itself.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem map"]
fn device_mapper_reads_the_file_in_the_lab() {
    require(&["dmsetup"]);
    for kind in [Kind::xfs(), Ext4::default().into()] {
        let mut scratch = Scratch::new(kind);
        let path = scratch.path("file");
        sh(on(&path, "head -c 4M /dev/urandom >$F; xfs_io -c 'fcollapse 64k 64k' -c 'fcollapse 1m 64k' -c fsync $F"));
        run(&["pin"], &path).expect(0);
        let (contents, table) = (checksum(&path), table(&path).expect(0));
        assert!(lines(&table).len() > 1, "{table}");
        let was = number_of(scratch.device());
        scratch.unmount();
        let script = format!(
            "export DM_DISABLE_UDEV=1; device=$(losetup --show --find --read-only '{}'); trap 'losetup --detach $device' EXIT
             number=$(stat -c '%Hr:%Lr' $device)
             sed \"s/ {was} / $number /\" <<<'{}' | dmsetup create --readonly daxfile-test
             cksum </dev/mapper/daxfile-test; dmsetup remove --retry daxfile-test",
            scratch.image().display(),
            table.text().trim_end(),
        );
        assert_eq!(sh(script), contents);
        scratch.mount();
        run(&["unpin"], &scratch.path("file")).expect(0);
        assert_eq!(sh_status("test -e /dev/mapper/daxfile-test"), 1);
    }
}

/// On blocks smaller than a page the header can lie across two pages: then the message says how to make the file.
#[test]
fn resume_names_the_remedy_for_a_split_header() {
    require(&["mkswap"]);
    let scratch = Scratch::new(Ext4 { block_size: 1024, ..Ext4::default() });
    let (plain, made) = (scratch.path("plain"), scratch.path("made"));
    // One block in front of it is taken.
    let split = (0..8).any(|_| {
        sh(on(&plain, "rm -f $F; head -c 1024 /dev/zero >$F.$RANDOM; sync -f ${F%/*}; fallocate -l 64M $F; sync $F"));
        !filefrag(&plain)[0].physical.is_multiple_of(4096)
    });
    assert!(split, "every file begins at a page");
    run(&["pin", "--hold", "none", "--allow", "unwritten"], &plain).expect(0);
    let refused = resume(&plain).expect(1);
    assert!(refused.stderr.contains("a file that daxfile alloc --align 4096 makes"), "{refused}");
    run(&["alloc", "--align", "4096", "-s", "64M"], &made).expect(0);
    run(&["pin", "--hold", "none"], &made).expect(0);

    // The numbers are right, but a kernel would find nothing there.
    let told = resume(&made).expect(0);
    assert!(told.stderr.contains("note: has no swap header yet: mkswap writes it"), "{told}");
    let offset = filefrag(&made)[0].physical / 4096;
    assert!(told.text().ends_with(&format!(" resume_offset={offset}\n")), "{told}");
    sh(on(&made, "chmod 600 $F; mkswap $F >/dev/null; sync $F"));
    assert_eq!(resume(&made).expect(0).stderr, "");
    run(&["verify"], &made).expect(0);
}

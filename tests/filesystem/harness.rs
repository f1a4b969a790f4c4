//! Tests of the harness itself, on which the other tests rely.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use daxfile_tests::child::finish;
use daxfile_tests::tools::{Piece, checksum, filefrag, normalise, require, sh, sh_status, xfs_bmap, xfs_io_fiemap};
use daxfile_tests::{Daxfile, Ext4, Kind, Scratch, Xfs, wait_until};

#[track_caller]
fn assert_gone(image: &Path) {
    let base = image.parent().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(base.to_str().unwrap()), "still mounted:\n{mounts}");
    let loops = format!("losetup --noheadings --raw --output NAME,BACK-FILE | grep -F '{}' || :", base.display());
    wait_until("the loop device is free", || sh(&loops).is_empty());
    assert!(!base.exists(), "{} left", base.display());
}

#[test]
fn a_panic_tears_down() {
    for elsewhere in [false, true] {
        let mut image = PathBuf::new();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut scratch = Scratch::new(Kind::xfs());
            image = scratch.image().to_owned();
            assert_eq!(sh(format!("losetup -j '{}'", image.display())).lines().count(), 1);
            sh(format!("mkdir '{0}' && mount -t tmpfs none '{0}'", scratch.path("below").display()));
            let guard = elsewhere.then(|| scratch.mount_elsewhere());
            std::panic::resume_unwind(Box::new(guard.is_some()));
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&elsewhere));
        assert_gone(&image);
    }
}

#[test]
fn scratch_in_use_is_detached_when_dropped() {
    let mut image = PathBuf::new();
    let mut open = None;
    // With a panic, because the drop then waits less.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let scratch = Scratch::new(Kind::ext4());
        image = scratch.image().to_owned();
        open = Some(fs::File::create(scratch.path("open")).unwrap());
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(image.to_str().unwrap().trim_end_matches("image")), "still mounted:\n{mounts}");
    drop(open);
    assert_gone(&image);
}

/// A killed test process must not leave mounts behind either: the janitor acts once the process has gone.
#[test]
fn a_killed_process_tears_down() {
    const CHILD: &str = "DAXFILE_TESTS_CHILD";
    if let Some(report) = std::env::var_os(CHILD) {
        let scratch = Scratch::new(Kind::ext4());
        fs::write(report, scratch.image().to_str().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("image");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "harness::a_killed_process_tears_down"]).env(CHILD, &report);
    assert!(!finish(&mut again).status.success());
    let image = PathBuf::from(fs::read_to_string(&report).unwrap());
    wait_until("the janitor has done", || !image.parent().unwrap().exists());
    assert_gone(&image);
}

#[test]
fn every_kind_mounts() {
    let kinds = Kind::pinnable().into_iter().chain([
        Xfs { mkfs_args: vec!["-d".into(), "su=64k,sw=2,agcount=4".into()], ..Xfs::default() }.into(),
        Kind::ext4_with(&["^extent"]),
        Kind::ext4_with(&["inline_data"]),
        Kind::ext4_with(&["verity", "encrypt"]),
        Kind::Btrfs,
    ]);
    std::thread::scope(|scope| {
        for kind in kinds {
            scope.spawn(move || {
                let scratch = Scratch::new(kind.clone());
                let (at, device) = (scratch.mount_point().display(), scratch.device().display());
                let found = sh(format!("findmnt --noheadings --raw --output FSTYPE,SOURCE '{at}'"));
                assert_eq!(found.trim(), format!("{} {device}", kind.name()));
                fs::write(scratch.path("file"), "contents").unwrap();
                let block = sh(format!("stat --file-system --format %S '{at}'"));
                match &kind {
                    Kind::Xfs(xfs) => {
                        let info = sh(format!("xfs_info '{at}'"));
                        let has = |field: String| assert!(info.contains(&field), "{field} not in\n{info}");
                        has(format!("reflink={}", u8::from(xfs.reflink)));
                        has(format!("rmapbt={}", u8::from(xfs.rmapbt)));
                        has(format!("bsize={}", xfs.block_size));
                        if !xfs.mkfs_args.is_empty() {
                            has("sunit=16     swidth=32 blks".into());
                        }
                    }
                    Kind::Ext4(ext4) => {
                        assert_eq!(block.trim(), ext4.block_size.to_string());
                        let info = sh(format!("tune2fs -l {device}"));
                        for feature in &ext4.features {
                            let wanted = !feature.starts_with('^');
                            let name = feature.trim_start_matches('^');
                            let has = info.split_whitespace().any(|word| word == name);
                            assert_eq!(has, wanted, "{feature}:\n{info}");
                        }
                    }
                    Kind::Btrfs | Kind::F2fs => {}
                }
            });
        }
    });
}

#[test]
fn a_remount_keeps_files() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let mut scratch = Scratch::new(kind);
        let file = scratch.path("file");
        fs::write(&file, "contents").unwrap();
        let image = scratch.image().to_owned();
        scratch.remount();
        assert_eq!(fs::read(&file).unwrap(), b"contents");

        scratch.remount_with("ro");
        assert_eq!(fs::write(&file, "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        scratch.remount();
        fs::write(&file, "new").unwrap();

        scratch.unmount();
        assert!(!file.exists());
        assert_eq!(sh(format!("losetup -j '{}'", image.display())), "");
        scratch.mount();
        assert_eq!(fs::read(&file).unwrap(), b"new");

        let elsewhere = scratch.mount_elsewhere();
        assert_ne!(elsewhere.path("file"), file);
        assert!(!file.exists());
        assert_eq!(fs::read(elsewhere.path("file")).unwrap(), b"new");
        drop(elsewhere);
        assert_eq!(fs::read(&file).unwrap(), b"new");
        drop(scratch);
        assert_gone(&image);
    }
}

#[test]
fn scratch_has_the_requested_size() {
    let scratch = Scratch::with_size(Kind::xfs(), 320 << 20);
    assert_eq!(fs::metadata(scratch.image()).unwrap().len(), 320 << 20);
}

/// Pieces with their positions left out: (logical, length, unwritten, shared).
fn shape(pieces: &[Piece]) -> Vec<(u64, u64, bool, bool)> {
    pieces.iter().map(|p| (p.logical, p.length, p.unwritten, p.shared)).collect()
}

const K: u64 = 1024;

#[test]
fn readers_agree_on_xfs() {
    for block_size in [1024, 4096] {
        let scratch = Scratch::new(Xfs { block_size, ..Xfs::default() });
        let file = scratch.path("a file");
        let name = file.display();
        // Written, a hole, written, unwritten, a hole, unwritten, and a preallocation past EOF; then the first two
        // written ranges are shared but for the first 16 KiB.
        sh(format!(
            "xfs_io -f -c 'pwrite 0 64k' -c 'pwrite 128k 64k' -c 'falloc 192k 64k' -c 'falloc 1m 4k' \
                 -c 'falloc -k 2m 8k' '{name}'
             cp --reflink=always '{name}' '{name}.clone'
             xfs_io -c 'cowextsize 4096' -c 'pwrite 0 16k' '{name}'"
        ));
        let pieces = filefrag(&file);
        assert_eq!(
            shape(&pieces),
            [
                (0, 16 * K, false, false),
                (16 * K, 48 * K, false, true),
                (128 * K, 64 * K, false, true),
                (192 * K, 64 * K, true, false),
                (1024 * K, 4 * K, true, false),
                (2048 * K, 8 * K, true, false),
            ]
        );
        assert_eq!(xfs_io_fiemap(&file), pieces);
        assert_eq!(xfs_bmap(&file), pieces);

        // Positions are the device's: the blocks there belong to the file.
        let script = |skip: u64, from: &Path| {
            format!("dd if='{}' bs=1k skip={} count=16 iflag=direct status=none | sha256sum", from.display(), skip / K)
        };
        assert_eq!(sh(script(pieces[0].physical, scratch.device())), sh(script(0, &file)));

        let empty = scratch.path("empty");
        fs::File::create(&empty).unwrap().set_len(1 << 20).unwrap();
        assert_eq!((filefrag(&empty), xfs_io_fiemap(&empty), xfs_bmap(&empty)), (vec![], vec![], vec![]));
    }
}

#[test]
fn readers_agree_on_ext4() {
    for block_size in [1024, 4096] {
        let scratch = Scratch::new(Ext4 { block_size, ..Ext4::default() });
        let file = scratch.path("a file");
        let name = file.display();
        sh(format!(
            "xfs_io -f -c 'pwrite 0 64k' -c 'falloc 64k 64k' -c 'pwrite 256k 4k' -c 'falloc -k 2m 8k' '{name}'"
        ));
        let pieces = filefrag(&file);
        assert_eq!(
            shape(&pieces),
            [
                (0, 64 * K, false, false),
                (64 * K, 64 * K, true, false),
                (256 * K, 4 * K, false, false),
                (2048 * K, 8 * K, true, false),
            ]
        );
        assert_eq!(xfs_io_fiemap(&file), pieces);
    }
}

#[test]
fn readers_agree_on_block_maps() {
    let scratch = Scratch::new(Kind::ext4_with(&["^extent"]));
    let file = scratch.path("file");
    sh(format!("xfs_io -f -c 'pwrite 0 64k' -c 'pwrite 128k 8m' '{}'", file.display()));
    let pieces = filefrag(&file);
    assert_eq!(pieces.iter().map(|p| p.length).sum::<u64>(), (64 + 8192) * K);
    assert_eq!(xfs_io_fiemap(&file), pieces);
}

/// More records than the tools ask for in one call, and in ext4's case record boundaries that are no run's.
#[test]
fn readers_agree_on_many_extents() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        sh(format!(
            "for ((i = 0; i < 1200; i++)); do echo \"pwrite $((i * 8))k 4k\"; done | xfs_io -f '{0}' >/dev/null
             fallocate --length 160M '{1}'",
            file.display(),
            scratch.path("large").display()
        ));
        let pieces = filefrag(&file);
        // XFS adds preallocated blocks in the holes.
        assert!(pieces.len() >= 1200, "{} pieces", pieces.len());
        assert_eq!(xfs_io_fiemap(&file), pieces);
        let large = filefrag(scratch.path("large"));
        assert_eq!(large.iter().map(|p| p.length).sum::<u64>(), 160 << 20);
        assert_eq!(xfs_io_fiemap(scratch.path("large")), large);
        if matches!(scratch.kind(), Kind::Xfs(_)) {
            assert_eq!(xfs_bmap(&file), pieces);
            assert_eq!(xfs_bmap(scratch.path("large")), large);
        }
    }
}

#[test]
fn only_equal_neighbours_are_joined() {
    let piece = |logical, physical, unwritten, shared| Piece { logical, physical, length: 10, unwritten, shared };
    let apart = vec![
        piece(0, 100, false, false),
        piece(10, 120, false, false),
        piece(30, 130, false, false),
        piece(40, 140, true, false),
        piece(50, 150, false, true),
    ];
    assert_eq!(normalise(apart.clone()), apart);
    let together = vec![piece(0, 100, true, false), piece(10, 110, true, false), piece(20, 120, true, false)];
    assert_eq!(normalise(together), [Piece { length: 30, ..piece(0, 100, true, false) }]);
}

#[test]
fn nobody_has_no_privileges() {
    let script =
        r#"id -u; id -g; id -G; grep CapEff /proc/self/status; test -x "$0" && echo "$1" "$GREETING"; pwd; cat"#;
    let run = Daxfile::new(["argument"])
        .as_nobody()
        .wrap(["sh", "-c", script])
        .env("GREETING", "hello")
        .dir("/")
        .stdin("input")
        .run()
        .expect(0);
    assert_eq!(run.text(), "65534\n65534\n65534\nCapEff:\t0000000000000000\nargument hello\n/\ninput");
    let denied = Daxfile::new([""; 0]).as_nobody().wrap(["touch", "/proc/sys/kernel/hostname"]).run();
    assert_ne!(denied.status, 0);
}

#[test]
fn run_reports_its_end() {
    let wrapped = |script: &str| Daxfile::new(["x"]).wrap(["sh", "-c", script]).run();
    assert_eq!(wrapped("kill -KILL $$").status, 128 + 9);
    let run = wrapped("echo '{\"a\": 1}'; echo oops >&2; exit 3").expect(3);
    assert_eq!((run.json()["a"].as_u64(), run.stderr.as_str()), (Some(1), "oops\n"));
    let message = catch_unwind(|| run.expect(0)).unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("oops") && message.contains("{\"a\": 1}") && message.contains("status 3"), "{message}");
    // Input without a reader, more than a pipe holds.
    assert_eq!(Daxfile::new(["x"]).wrap(["true"]).stdin(vec![0; 1 << 20]).run().status, 0);
}

#[test]
fn shell_helpers_fail_loudly() {
    assert_eq!(sh("printf '%s' out"), "out");
    assert_eq!((sh_status("exit 7"), sh_status("kill -TERM $$"), sh_status("false; true")), (7, 128 + 15, 1));
    assert!(catch_unwind(|| sh("echo $undefined")).is_err());
    let missing = catch_unwind(|| require(&["sh", "no-such-program"])).unwrap_err();
    assert!(missing.downcast_ref::<String>().unwrap().contains("apt-get install no-such-program"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("back\\slash");
    fs::write(&file, "").unwrap();
    assert_eq!(checksum(&file), "4294967295 0\n");
}

/// Programs that other tests start keep no file open that a test has closed.
#[test]
fn a_closed_file_is_closed_for_the_program_that_follows() {
    const ROUNDS: usize = 20;
    // Each is tried between fork and exec, which takes so long that the file is often closed just then.
    let path = "/none:".repeat(10_000) + "/bin";
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    let starts = AtomicUsize::new(0);
    let refused = |_: &usize| {
        let writer = fs::File::create(&file).unwrap();
        writer.set_len(4096).unwrap();
        let before = starts.load(Ordering::Relaxed);
        wait_until("another child is started", || starts.load(Ordering::Relaxed) > before);
        drop(writer);
        Daxfile::new(["prepare"]).arg(&file).run().status == 5
    };
    let busy = std::thread::scope(|scope| {
        let busy = scope.spawn(|| (0..ROUNDS).filter(refused).count());
        while !busy.is_finished() {
            starts.fetch_add(1, Ordering::Relaxed);
            finish(Command::new("true").env("PATH", &path));
        }
        busy.join().unwrap()
    });
    assert_eq!(busy, 0, "of {ROUNDS} leases were refused");
}

/// With the package ndctl, /etc/modprobe.d has `install libnvdimm …`: modprobe(8) lists it as a command, not as a
/// module.
#[test]
fn lab_modules_ignore_configuration_of_the_host() {
    require(&["depmod", "unshare"]);
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab");
    let kernel = sh(format!("'{}' 6.1", lab.join("fetch.sh").display()));
    let dir = tempfile::tempdir().unwrap();
    let list = |tree: &str, before: &str| {
        let tree = dir.path().join(tree);
        fs::create_dir(&tree).unwrap();
        let (kernel, script) = (kernel.trim(), lab.join("modules.sh"));
        let tree = tree.display();
        sh(format!(
            "{before} '{}' '{kernel}/lib/modules/'* '{tree}' nd_pmem loop xfs dm_crypt && cd '{tree}' && find . -type f | sort",
            script.display()
        ))
    };
    let clean = list("clean", "");
    for module in ["libnvdimm", "nd_pmem", "loop", "xfs", "dm-mod", "dm-crypt", "libcrc32c"] {
        assert!(clean.contains(&format!("/{module}.ko")), "no {module}:\n{clean}");
    }
    let hostile = dir.path().join("hostile");
    fs::create_dir(&hostile).unwrap();
    for module in ["libnvdimm", "loop", "xfs", "dm_mod"] {
        let lines = format!("blacklist {module}\ninstall {module} /bin/false\nsoftdep {module} pre: zram\n");
        fs::write(hostile.join(format!("{module}.conf")), lines).unwrap();
    }
    fs::write(hostile.join("search.conf"), "search updates\nexclude kernel/drivers/nvdimm\n").unwrap();
    let at = hostile.display();
    let before = format!(
        "unshare --mount sh -ec 'mkdir -p /etc/modprobe.d /etc/depmod.d; mount --bind \"$0\" /etc/modprobe.d; \
         mount --bind \"$0\" /etc/depmod.d; exec env MODPROBE_OPTIONS=--bad-option \"$@\"' '{at}'"
    );
    assert_eq!(list("beside hostile configuration", &before), clean);
}

//! The examples of libdaxfile, run as a reader would run them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use daxfile_tests::child::{Killed, finish, spawn};
use daxfile_tests::tools::{filefrag_records, on, output, sh, xflags};
use daxfile_tests::{Kind, Scratch, Xfs};
use nix::errno::Errno;

const EXAMPLES: [&str; 6] = ["count", "extents", "freeze", "immutable", "lease", "owners"];

/// An example of libdaxfile, which cargo builds beside this test.
#[track_caller]
fn example(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build -p libdaxfile --examples", path.display());
    path
}

#[track_caller]
fn fails(out: &Output, status: i32, text: &str) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(status) && stderr.contains(text), "{text:?} is not in {out:?}");
}

/// A file of 1 MiB with two holes.
fn sparse(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path(name);
    sh(on(&path, "xfs_io -f -c 'pwrite -q 0 1m' -c fsync -c 'fpunch 64k 64k' -c 'fpunch 256k 4k' $F"));
    path
}

#[test]
fn every_example_is_run_here_and_has_a_usage() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../libdaxfile/examples");
    let mut names: Vec<String> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, EXAMPLES);
    for name in EXAMPLES {
        fails(&finish(&mut Command::new(example(name))), 2, &format!("usage: {name} "));
    }
}

#[test]
fn example_names_a_missing_file() {
    for name in EXAMPLES {
        let mut command = Command::new(example(name));
        command.arg("/nonexistent/file").args((name == "owners").then_some("0"));
        fails(&finish(&mut command), 1, &format!("{name}: /nonexistent/file: No such file or directory"));
    }
}

#[test]
fn example_extents_matches_filefrag() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = sparse(&scratch, "file");
        let listed = output(Command::new(example("extents")).arg(&path));
        let expected: Vec<String> = filefrag_records(&path)
            .iter()
            .map(|(piece, _)| format!("{} {} {}", piece.logical, piece.physical, piece.length))
            .collect();
        assert!(expected.len() >= 3);
        let numbers = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        assert_eq!(listed.lines().map(numbers).collect::<Vec<_>>(), expected);
        assert!(listed.ends_with(" last\n"), "{listed}");
    }
    let refused = finish(Command::new(example("extents")).arg("/proc/self/status"));
    fails(&refused, 1, "extents: /proc/self/status: ioctl(FS_IOC_FIEMAP): Operation not supported");
}

#[test]
fn example_count_goes_on_after_an_error() {
    let scratch = Scratch::new(Kind::xfs());
    let (one, empty) = (sparse(&scratch, "one"), scratch.path("empty"));
    fs::write(&empty, "").unwrap();
    let out = finish(Command::new(example("count")).args([&one, Path::new("/proc/self/status"), &empty]));
    fails(&out, 1, "count: /proc/self/status: ioctl(FS_IOC_FIEMAP): Operation not supported");
    let counts = format!("{} {}\n0 {}\n", filefrag_records(&one).len(), one.display(), empty.display());
    assert_eq!(String::from_utf8(out.stdout).unwrap(), counts);
}

#[test]
fn example_freeze_sets_the_flag_and_thaw_clears_it() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        fs::write(&path, "contents").unwrap();
        for _ in 0..2 {
            assert_eq!(output(Command::new(example("freeze")).arg(&path)), "");
            assert!(xflags(&path).contains('i'));
        }
        let refused = OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32));
        for _ in 0..2 {
            assert_eq!(output(Command::new(example("freeze")).arg("--thaw").arg(&path)), "");
            assert!(!xflags(&path).contains('i'));
        }

        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        let busy = finish(Command::new(example("freeze")).arg(&path));
        fails(&busy, 1, "fcntl(F_SETLEASE): Resource temporarily unavailable");
        assert!(!xflags(&path).contains('i'));
        drop(writer);

        let mut setpriv = Command::new("setpriv");
        setpriv.arg("--bounding-set=-linux_immutable").arg(example("freeze")).arg(&path);
        fails(&finish(&mut setpriv), 1, "ioctl(FS_IOC_FSSETXATTR): Operation not permitted");
        std::os::unix::fs::symlink(&path, scratch.path("link")).unwrap();
        fails(
            &finish(Command::new(example("freeze")).arg(scratch.path("link"))),
            1,
            "Too many levels of symbolic links",
        );
        fails(&finish(Command::new(example("freeze")).arg(scratch.mount_point())), 1, "not a regular file");
    }
}

#[test]
fn example_owners_names_the_inodes_of_shared_blocks() {
    let scratch = Scratch::new(Xfs { rmapbt: true, ..Xfs::default() });
    let (path, clone) = (scratch.path("file"), scratch.path("clone"));
    sh(on(&path, "xfs_io -f -c 'pwrite -q 0 64k' -c fsync $F"));
    let (extent, _) = filefrag_records(&path)[0].clone();
    let owners = |offset: u64, length: &[&str]| {
        output(Command::new(example("owners")).arg(scratch.mount_point()).arg(offset.to_string()).args(length))
    };
    let inode = fs::metadata(&path).unwrap().ino();
    let start = extent.physical;
    assert_eq!(owners(start, &["65536"]), format!("{start} 65536 inode {inode} at 0\n"));
    assert_eq!(owners(start, &[]), format!("{start} 65536 inode {inode} at 0\n"));
    sh(on(&path, "cp --reflink=always $F ${F%/*}/clone"));
    let mut shared: Vec<String> = owners(start, &["65536"]).lines().map(str::to_owned).collect();
    shared.sort();
    let mut inodes = [inode, fs::metadata(&clone).unwrap().ino()];
    inodes.sort_unstable();
    assert_eq!(shared, inodes.map(|inode| format!("{start} 65536 inode {inode} at 0, shared")));
    assert!(owners(0, &[]).contains("filesystem (0x5800000001)"), "{}", owners(0, &[]));

    let refused = finish(Command::new(example("owners")).args(["/proc", "0"]));
    fails(&refused, 1, "owners: /proc: ioctl(FS_IOC_GETFSMAP): Inappropriate ioctl for device");
    let extra = finish(Command::new(example("owners")).args(["/proc", "0", "1", "2"]));
    fails(&extra, 2, "usage: owners ");
    fails(&finish(Command::new(example("owners")).args(["/proc", "1M"])), 2, "usage: owners ");
}

#[test]
fn example_lease_reports_a_writer_that_waits() {
    let scratch = Scratch::new(Kind::ext4());
    let path = scratch.path("file");
    fs::write(&path, "contents").unwrap();
    let mut watching = Killed(spawn(Command::new(example("lease")).arg(&path).stdout(Stdio::piped())));
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), "no process has it open for writing; waiting for the first");
    File::open(&path).unwrap();
    let refused = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EWOULDBLOCK as i32));
    assert_eq!(line(), "a process opens it for writing");
    assert!(watching.0.wait().unwrap().success());

    let _writer = OpenOptions::new().write(true).open(&path).unwrap();
    fails(&finish(Command::new(example("lease")).arg(&path)), 1, "a process has it open for writing");
}

#[test]
fn example_immutable_lists_immutable_files() {
    let scratch = Scratch::new(Kind::xfs());
    let path = scratch.path("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"contents").unwrap();
    file.sync_all().unwrap();
    fs::write(scratch.path("other"), "").unwrap();
    let list = || output(Command::new(example("immutable")).arg(scratch.mount_point()));
    assert_eq!(list(), "");
    output(Command::new("chattr").arg("+i").arg(&path));
    assert_eq!(list(), format!("{} 8\n", fs::metadata(&path).unwrap().ino()));
}

#[test]
fn example_immutable_needs_cap_sys_admin() {
    let scratch = Scratch::new(Kind::xfs());
    let mut setpriv = Command::new("setpriv");
    setpriv.arg("--bounding-set=-sys_admin").arg(example("immutable")).arg(scratch.mount_point());
    let refused = finish(&mut setpriv);
    let text = "ioctl(XFS_IOC_BULKSTAT): Operation not permitted";
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(text), "{refused:?}");
}

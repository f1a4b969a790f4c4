//! libdaxfile's calls that need a filesystem of their own, or root. libdaxfile/tests has the others.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use daxfile_tests::tools::{on, output, sh, xfs_bmap};
use daxfile_tests::{Kind, Scratch, Xfs};
use libdaxfile::bulkstat::{Inode, Inodes};
use libdaxfile::fallocate::{Mode, fallocate};
use libdaxfile::fsxattr::{self, Xflags};
use libdaxfile::{cachestat, inode};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

fn inodes(scratch: &Scratch) -> HashMap<u64, Inode> {
    let root = File::open(scratch.mount_point()).unwrap();
    let inodes: Vec<Inode> = Inodes::new(&root, 0).collect::<Result<_, _>>().unwrap();
    assert!(inodes.is_sorted_by(|one, next| one.inode < next.inode));
    inodes.into_iter().map(|inode| (inode.inode, inode)).collect()
}

#[track_caller]
fn assert_record_matches(record: &Inode, path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert_eq!(record.inode, metadata.ino());
    assert_eq!(u32::from(record.mode), metadata.mode());
    assert_eq!(u64::from(record.nlink), metadata.nlink());
    assert_eq!(record.uid, metadata.uid());
    assert_eq!(record.size, metadata.size());
    assert_eq!(record.allocated, metadata.blocks() * 512, "{}", path.display());
    assert_eq!((record.mtime.seconds, i64::from(record.mtime.nanoseconds)), (metadata.mtime(), metadata.mtime_nsec()));
    assert_eq!((record.ctime.seconds, i64::from(record.ctime.nanoseconds)), (metadata.ctime(), metadata.ctime_nsec()));
    let file = File::open(path).unwrap();
    assert_eq!(record.generation, inode::generation(&file).unwrap());
    assert_eq!(record.xflags, fsxattr::get(&file).unwrap().xflags(), "{}", path.display());
}

#[test]
fn bulkstat_record_matches_stat_of_each_file() {
    for block_size in [4096, 1024] {
        let scratch = Scratch::new(Xfs { block_size, ..Xfs::default() });
        fs::create_dir(scratch.path("dir")).unwrap();
        let mut paths = vec![scratch.mount_point().to_owned(), scratch.path("dir")];
        // More than two calls return.
        for number in 0..2500 {
            let path = scratch.path(format!("dir/{number}"));
            fs::write(&path, vec![1; number]).unwrap();
            paths.push(path);
        }
        let sparse = File::create(scratch.path("sparse")).unwrap();
        fallocate(&sparse, Mode::empty(), 0, 20 << 20).unwrap();
        (1..20).for_each(|hole| fallocate(&sparse, Mode::PUNCH_HOLE | Mode::KEEP_SIZE, hole << 20, 4096).unwrap());
        drop(sparse);
        for (name, flag) in [("sparse", "+id"), ("dir/7", "+i"), ("dir/2499", "+A")] {
            output(Command::new("chattr").arg(flag).arg(scratch.path(name)));
        }
        sh(on(scratch.path("dir/11"), "setfattr -n user.test -v 1 $F"));
        std::os::unix::fs::chown(scratch.path("dir/5"), Some(1234), Some(5678)).unwrap();
        fs::hard_link(scratch.path("dir/3"), scratch.path("link")).unwrap();
        sh(on(scratch.mount_point(), "sync -f $F"));
        paths.push(scratch.path("sparse"));

        let unlinked = File::create(scratch.path("unlinked")).unwrap();
        fs::remove_file(scratch.path("unlinked")).unwrap();
        let inodes = inodes(&scratch);
        assert_eq!(inodes[&unlinked.metadata().unwrap().ino()].nlink, 0);
        assert_eq!(inodes.len(), paths.len() + 1);
        for path in &paths {
            assert_record_matches(&inodes[&fs::metadata(path).unwrap().ino()], path);
        }
        let record = |name: &str| inodes[&fs::metadata(scratch.path(name)).unwrap().ino()];
        assert_eq!(record("sparse").extents, xfs_bmap(scratch.path("sparse")).len() as u64);
        assert!(record("sparse").xflags.contains(Xflags::IMMUTABLE | Xflags::NODUMP));
        assert!(record("dir/11").xflags.contains(Xflags::HASATTR));
        assert!(!record("dir/12").xflags.contains(Xflags::IMMUTABLE));
        assert_eq!((record("dir/5").uid, record("link").nlink), (1234, 2));
    }
}

#[test]
fn bulkstat_starts_at_the_number_it_is_given() {
    let scratch = Scratch::new(Kind::xfs());
    (0..100).for_each(|number| fs::write(scratch.path(number.to_string()), "").unwrap());
    let root = File::open(scratch.mount_point()).unwrap();
    let numbers = |first| Inodes::new(&root, first).map(|inode| inode.unwrap().inode).collect::<Vec<_>>();
    let all = numbers(0);
    assert_eq!(all.len(), 101);
    assert_eq!(numbers(all[50]), all[50..]);
    assert_eq!(numbers(all[50] + 1), all[51..]);
    assert_eq!(numbers(all[100] + 1), [0; 0]);
    assert_eq!(numbers(u64::MAX), [0; 0]);
}

#[test]
fn cachestat_sees_pages_become_dirty_clean_and_gone() {
    for kind in Kind::xfs_and_ext4() {
        let scratch = Scratch::new(kind);
        let mut file = File::options().create_new(true).read(true).write(true).open(scratch.path("file")).unwrap();
        let pages = |file: &File| cachestat::count(file, 0..u64::MAX).unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();
        let (count, page) = (pages(&file), 4096);
        assert_eq!((count.cached, count.dirty + count.writeback), ((1 << 20) / page, (1 << 20) / page));
        file.sync_all().unwrap();
        let count = pages(&file);
        assert_eq!((count.cached, count.dirty, count.writeback), ((1 << 20) / page, 0, 0));
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        assert_eq!(pages(&file), cachestat::Pages::default());
        file.read_exact_at(&mut [0], 0).unwrap();
        assert!(pages(&file).cached >= 1);
    }
}

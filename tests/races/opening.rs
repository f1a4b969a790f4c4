//! Names that change while many files are opened.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use daxfile_tests::tools::sh;
use daxfile_tests::{Daxfile, Kind, Scratch, on_each};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc::O_NONBLOCK;

const FOR: Duration = Duration::from_secs(3);

/// Ends the other threads, even after a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One name is a file and a FIFO in turn. A writer of the FIFO would meet a reader if daxfile opened it.
#[test]
fn a_name_that_becomes_a_fifo_is_never_opened() {
    const FILES: usize = 40;
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let at = |name: &str| scratch.path(name);
        sh(format!(
            "cd '{}'; for ((i = 0; i < {FILES}; i++)); do echo $i >$i; done; mkfifo fifo; ln fifo watched; sync -f .",
            scratch.mount_point().display()
        ));
        let (file, fifo, watched) = (at("0"), at("fifo"), at("watched"));
        let number = fs::metadata(&file).unwrap().ino();
        let names: Vec<_> =
            (0..10 * FILES).map(|n| if n % 2 == 0 { file.clone() } else { at(&(n % FILES).to_string()) }).collect();
        let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &file, AT_FDCWD, &fifo, RenameFlags::RENAME_EXCHANGE).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let opened = fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&watched);
                    assert_eq!(opened.unwrap_err().raw_os_error(), Some(Errno::ENXIO as i32), "the FIFO has a reader");
                }
            });
            let (mut files, mut fifos) = (0, 0);
            let began = Instant::now();
            while began.elapsed() < FOR {
                let report = Daxfile::new(["stat", "--json"]).args(&names).run().json();
                for (answer, name) in report["files"].as_array().unwrap().iter().zip(&names) {
                    if *name != file {
                        assert_eq!(answer["exit_status"], 0, "{answer}");
                    } else if answer["exit_status"] == 0 {
                        assert_eq!(answer["file"]["inode"], number, "{answer}");
                        files += 1;
                    } else {
                        assert_eq!(answer["error"]["message"], "not a regular file", "{answer}");
                        fifos += 1;
                    }
                }
            }
            assert!(files > 0 && fifos > 0, "{files} times the file, {fifos} times the FIFO");
        });
        assert!(swaps.load(Ordering::Relaxed) > 100);
    });
}

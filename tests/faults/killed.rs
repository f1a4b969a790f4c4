//! The promise of a daxfile: data that a program stored through a mapping made with `MAP_SYNC`, and flushed with CPU
//! instructions alone, survives a crash, and no extent has moved.
//!
//! The guest's memory is a file of the host's, which outlives QEMU, and emulation has no CPU caches that a kill could
//! lose. So this shows that the metadata which stores depend on are on persistent memory before the store returns; it
//! cannot show that the flush instructions are needed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daxfile_tests::child::spawn;
use daxfile_tests::lab::{boot, said, say, wait_for_the_kill};
use daxfile_tests::tools::{attack, filefrag, on, sh, xfs_bmap};
use daxfile_tests::{run, state};

const PIN: [&str; 3] = ["pin", "--hold", "writable"];
const PAGE: usize = 4096;
const PAGES: u64 = 2048;
/// More counters than one boot comes to.
const A_BOOT: u64 = 10_000_000;

struct Volume {
    label: &'static str,
    mkfs: &'static str,
    options: &'static str,
}

const PINNED: [Volume; 3] = [
    Volume { label: "always", mkfs: "mkfs.xfs -q -f", options: "dax=always" },
    Volume { label: "inode", mkfs: "mkfs.xfs -q -f", options: "dax=inode" },
    Volume { label: "ext4", mkfs: "mkfs.ext4 -q -F -b 4096", options: "dax" },
];
const UNPROMISED: Volume = Volume { label: "unpromised", mkfs: "mkfs.ext4 -q -F -b 4096", options: "dax,commit=300" };

impl Volume {
    /// Makes the filesystem, on a device that has none.
    fn make(&self, device: usize) {
        sh(format!("{} -L {} /dev/pmem{device}", self.mkfs, self.label));
    }

    fn mount(&self) -> PathBuf {
        let at = PathBuf::from("/mnt").join(self.label);
        sh(format!("mkdir -p {0}; mount -o {1} $(findfs LABEL={2}) {0}", at.display(), self.options, self.label));
        at
    }
}

/// Starts to store counters, and waits for the first to be acknowledged.
fn store(name: &str, path: &Path, boot: u64, how: &[&str]) -> Child {
    let first = (boot * A_BOOT).to_string();
    let mut command = Command::new(attack("flush"));
    command.arg(name).arg(path).arg(first).args(how).stdout(Stdio::piped());
    let mut child = spawn(&mut command);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "stored\n", "{name}");
    child
}

/// How many of the counters that were acknowledged in that boot are not there; and how many there were.
fn lost(name: &str, path: &Path, boot: u64) -> (usize, usize) {
    let said = said(name);
    let counters: Vec<u64> =
        said.iter().map(|counter| counter.parse().unwrap()).filter(|c| c / A_BOOT == boot).collect();
    let (&first, &last) = (counters.first().unwrap(), counters.last().unwrap());
    let bytes = fs::read(path).unwrap();
    let at = |counter: u64| {
        let start = usize::try_from(counter % PAGES).unwrap() * PAGE;
        u64::from_ne_bytes(bytes[start..start + 8].try_into().unwrap())
    };
    // A page's last counter, or one more round that was not acknowledged yet.
    let kept = |counter: u64| at(counter) == counter || at(counter) == counter + PAGES;
    let newest = first.max(last.saturating_sub(PAGES - 1))..=last;
    (newest.filter(|&counter| !kept(counter)).count(), counters.len())
}

fn map(volume: &Volume, path: &Path) -> String {
    let map = filefrag(path);
    if volume.mkfs.starts_with("mkfs.xfs") {
        assert_eq!(xfs_bmap(path), map);
    }
    format!("{map:?}")
}

/// The guard went with the boot before.
fn armed_again(path: &Path) {
    assert_eq!(state(path), "not_held");
    run(&PIN, path).expect(0);
    assert_eq!(state(path), "pinned");
    run(&["verify"], path).expect(0);
}

/// A file whose blocks moved before the guard came back is not held.
fn moved_meanwhile(path: &Path) {
    let before = filefrag(path);
    sh(on(
        path,
        "cp --reflink=always $F $F.clone; dd if=/dev/urandom of=$F bs=4k count=16 conv=notrunc,fsync status=none",
    ));
    assert_ne!(filefrag(path), before);
    let refused = run(&PIN, path).expect(1);
    assert!(refused.stderr.contains("changed since"), "{}", refused.stderr);
    assert_eq!(state(path), "not_held");
    run(&["verify"], path).expect(1);
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh --kills 2 KERNEL faults killed::"]
fn flushed_stores_survive_a_kill_in_the_lab() {
    let (boot, last) = boot();
    if boot == 0 {
        for (device, volume) in PINNED.iter().chain([&UNPROMISED]).enumerate() {
            volume.make(device);
        }
    }
    let mounted: Vec<_> = PINNED.iter().map(|volume| (volume, volume.mount())).collect();
    let unpromised = UNPROMISED.mount();

    if let Some(before) = boot.checked_sub(1) {
        for (volume, at) in &mounted {
            let pinned = at.join("pinned");
            assert_eq!(said(&format!("map-{}", volume.label)), [map(volume, &pinned)], "{}", volume.label);
            armed_again(&pinned);
            for (name, path) in [("pinned", pinned), ("sparse", at.join(format!("sparse{before}")))] {
                let (lost, of) = lost(&format!("{name}-{}", volume.label), &path, before);
                println!("{} {name}: {lost} lost of {of}", volume.label);
                assert_eq!(lost, 0, "{} {name}, of {of} acknowledged", volume.label);
            }
        }
        if boot == 1 {
            moved_meanwhile(&mounted[0].1.join("other"));
        }
        // Without MAP_SYNC the acknowledged blocks depend on metadata that no call waited for.
        let (lost, of) = lost("unpromised", &unpromised.join(format!("sparse{before}")), before);
        println!("without MAP_SYNC: {lost} lost of {of}");
        assert!(lost > 0, "of {of} acknowledged without MAP_SYNC none is lost: this test cannot see a loss");
    }
    if last {
        for at in mounted.iter().map(|(_, at)| at).chain([&unpromised]) {
            sh(format!("umount {}", at.display()));
        }
        return;
    }

    let sparse = |at: &Path| {
        let path = at.join(format!("sparse{boot}"));
        fs::File::create(&path).unwrap().set_len(PAGES * PAGE as u64).unwrap();
        sh(format!("sync -f {}", path.display()));
        path
    };
    let mut children = Vec::new();
    for (volume, at) in &mounted {
        if volume.options == "dax=inode" {
            sh(on(at, "xfs_io -c 'chattr +x' $F"));
        }
        let pinned = at.join("pinned");
        if boot == 0 {
            run(&["alloc", "-s", "8M"], &pinned).expect(0);
            run(&PIN, &pinned).expect(0);
            say(&format!("map-{} {}", volume.label, map(volume, &pinned)));
        }
        children.push(store(&format!("pinned-{}", volume.label), &pinned, boot, &[]));
        children.push(store(&format!("sparse-{}", volume.label), &sparse(at), boot, &[]));
    }
    if boot == 0 {
        let other = mounted[0].1.join("other");
        run(&["alloc", "-s", "1M"], &other).expect(0);
        run(&PIN, &other).expect(0);
    }
    children.push(store("unpromised", &sparse(&unpromised), boot, &["unsynchronised"]));
    wait_for_the_kill();
}

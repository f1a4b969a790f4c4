//! Files on the realtime device of an XFS.

use std::path::PathBuf;

use daxfile_tests::tools::{Piece, filefrag, flags, sh, sh_status, xfs_bmap};
use daxfile_tests::{Ext4, Scratch, report, run};
use serde_json::Value;

/// An XFS with a realtime device, on which files are by default; it goes away with the filesystem that holds its
/// images.
struct Realtime {
    scratch: Scratch,
    device: PathBuf,
    /// The link by which it was mounted.
    named: PathBuf,
}

impl Realtime {
    fn new() -> Realtime {
        let scratch = Scratch::with_size(Ext4::default(), 1 << 30);
        let at = scratch.mount_point().display();
        // Detached while mounted, a loop device goes when it is unmounted.
        let device = sh(format!(
            "cd '{at}'; truncate -s 320M data; truncate -s 256M realtime; mkdir mnt
             device=$(losetup --show --find realtime)
             trap 'losetup --detach $device' EXIT
             mkfs.xfs -q -m reflink=0 -d rtinherit=1 -r rtdev=$device data
             ln -s $device link
             mount -o loop,rtdev='{at}/link' data mnt
             echo $device"
        ));
        let named = scratch.path("link");
        Realtime { scratch, device: device.trim().into(), named }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.mount_point().join("mnt").join(name)
    }
}

fn map_of(file: &Value) -> Vec<Piece> {
    let piece = |extent: &Value| Piece {
        logical: extent["logical"].as_u64().unwrap(),
        physical: extent["physical"].as_u64().unwrap(),
        length: extent["length"].as_u64().unwrap(),
        unwritten: false,
        shared: false,
    };
    file["extents"].as_array().unwrap().iter().map(piece).collect()
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem realtime"]
fn a_realtime_file_is_pinned_in_the_lab() {
    let xfs = Realtime::new();
    let path = xfs.path("file");
    let name = path.display();
    sh(format!("xfs_io -f -c 'pwrite -q -S 1 1m 64k' -c fsync -c 'pwrite -q -S 2 0 1m' -c fsync '{name}'"));

    let stat = report(&["stat", "--extents"], &path, 0);
    assert_eq!(stat["map"]["address_space"], "realtime device");
    assert_eq!(stat["map"]["realtime_device"], xfs.named.to_str().unwrap());
    assert_eq!(map_of(&stat), xfs_bmap(&path));
    assert_eq!(filefrag(&path), xfs_bmap(&path));
    assert!(run(&["stat"], &path).expect(0).text().contains(xfs.named.to_str().unwrap()));

    let block = |device: &str, skip: u64| {
        sh(format!("dd if='{device}' bs=4k skip={} count=1 iflag=direct status=none | sha256sum", skip / 4096))
    };
    for piece in xfs_bmap(&path) {
        let found = block(xfs.device.to_str().unwrap(), piece.physical);
        assert_eq!(found, block(path.to_str().unwrap(), piece.logical));
    }

    let was = (flags(&path), filefrag(&path));
    assert!(was.0.contains('r'), "not on the realtime device: {}", was.0);
    run(&["check"], &path).expect(0);
    run(&["pin"], &path).expect(0);
    run(&["verify"], &path).expect(0);
    assert_ne!(sh_status(format!("truncate -s 0 '{name}'")), 0);
    run(&["unpin"], &path).expect(0);
    assert_eq!((flags(&path), filefrag(&path)), was);
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem realtime"]
fn alloc_and_prepare_on_a_realtime_device_in_the_lab() {
    let xfs = Realtime::new();
    let path = xfs.path("new");
    run(&["alloc", "-s", "4M"], &path).expect(0);
    assert_eq!(report(&["stat"], &path, 0)["map"]["address_space"], "realtime device");

    let sparse = xfs.path("sparse");
    sh(format!("xfs_io -f -c 'pwrite -q 64k 64k' -c 'falloc 256k 64k' -c 'truncate 1m' '{}'", sparse.display()));
    run(&["check"], &sparse).expect(1);
    run(&["prepare"], &sparse).expect(0);
    for path in [path, sparse] {
        run(&["pin"], &path).expect(0);
        run(&["verify"], &path).expect(0);
        run(&["unpin"], &path).expect(0);
    }
}

/// The name of the device that was mounted may belong to another device now.
#[test]
#[ignore = "runs in the lab: tests/lab.sh KERNEL filesystem realtime"]
fn map_names_the_realtime_device_or_fails_in_the_lab() {
    let xfs = Realtime::new();
    let path = xfs.path("file");
    sh(format!("xfs_io -f -c 'pwrite -q -S 1 1m 64k' -c fsync -c 'pwrite -q -S 2 0 1m' -c fsync '{}'", path.display()));
    run(&["pin"], &path).expect(0);
    let number = sh(format!("stat -c '%Hr:%Lr' {}", xfs.device.display()));
    let number = number.trim();
    let first = filefrag(&path)[0].physical;

    let name_it = |what: &str| sh(format!("ln -sfn '{what}' '{}'", xfs.named.display()));
    let is_told = || {
        let table = run(&["map", "--format", "dmsetup"], &path).expect(0);
        assert!(table.text().lines().all(|line| line.split(' ').nth(3) == Some(number)), "{table}");
        assert_eq!(table.text().lines().count(), filefrag(&path).len(), "{table}");
        let resume = format!("resume={number} resume_offset={}\n", first / 4096);
        assert_eq!(run(&["map", "--format", "resume"], &path).expect(0).text(), resume);
    };
    is_told();
    let at = xfs.scratch.mount_point().display();
    let data = sh(format!("findmnt --noheadings --output SOURCE '{at}/mnt'"));
    let other = sh(format!("truncate -s 64M '{at}/other'; losetup --show --find '{at}/other'"));
    let refused = std::panic::catch_unwind(|| {
        for what in [data.trim(), other.trim(), "/dev/null", &format!("{at}/data"), &format!("{at}/none")] {
            name_it(what);
            for format in ["dmsetup", "resume"] {
                let told = run(&["map", "--format", format], &path).expect(2);
                assert!(told.text().is_empty() && told.stderr.contains("realtime device"), "{what}: {told}");
            }
        }
    });
    sh(format!("losetup --detach {}", other.trim()));
    refused.unwrap();
    name_it(xfs.device.to_str().unwrap());
    is_told();
    run(&["unpin"], &path).expect(0);
}

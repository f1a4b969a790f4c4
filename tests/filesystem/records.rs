//! Pin records: their layout, copies of them, forgeries, and filesystems with little room for them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daxfile_tests::child::{finish, spawn};
use daxfile_tests::tools::{Piece, filefrag, on, require, sh, sh_status, xflags};
use daxfile_tests::{Daxfile, Ext4, Kind, Scratch, Xfs, notes, on_each, report, run, state};

const ENFORCED: &str = "security.daxfile.pin";
const UNENFORCED: &str = "user.daxfile.pin";

/// Every verb that takes a file, in each form that could act differently on a record.
const VERBS: [&[&str]; 13] = [
    &["pin"],
    &["pin", "--dry-run"],
    &["pin", "--hold", "none"],
    &["pin", "--allow", "hole,unwritten,shared,empty"],
    &["unpin"],
    &["unpin", "--dry-run"],
    &["check"],
    &["check", "--hold", "none"],
    &["verify"],
    &["verify", "--strict"],
    &["stat"],
    &["stat", "--extents"],
    &["stat", "--json"],
];

/// The value of an attribute, as getfattr(1) gives it.
#[track_caller]
fn attribute(file: &Path, name: &str) -> Option<Vec<u8>> {
    require(&["getfattr"]);
    let mut getfattr = Command::new("getfattr");
    let out = finish(getfattr.args(["--absolute-names", "--only-values", "-n", name]).arg(file));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() || stderr.contains("No such attribute"), "{stderr}");
    out.status.success().then_some(out.stdout)
}

#[track_caller]
fn record(file: &Path) -> Vec<u8> {
    attribute(file, ENFORCED).unwrap_or_else(|| panic!("{} has no record", file.display()))
}

/// Sets an attribute of any length, which setfattr(1) takes from a dump only.
#[track_caller]
fn set_attribute(file: &Path, name: &str, value: &[u8]) {
    require(&["setfattr"]);
    let dump = tempfile::NamedTempFile::new().unwrap();
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = if hex.is_empty() { "\"\"".to_owned() } else { format!("0x{hex}") };
    fs::write(dump.path(), format!("# file: {}\n{name}={value}\n", file.display())).unwrap();
    sh(format!("setfattr --restore='{}'", dump.path().display()));
}

/// Flags, attributes, and every time but atime. The change time tells that nothing was touched even for a moment.
#[track_caller]
fn everything(file: &Path) -> (String, String, u64, [(i64, i64); 2]) {
    let attributes = sh(format!("getfattr --absolute-names -d -m - -e hex '{}'", file.display()));
    let metadata = fs::metadata(file).unwrap();
    let times = [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())];
    (xflags(file), attributes, metadata.len(), times)
}

fn create(file: PathBuf, bytes: usize) -> PathBuf {
    fs::write(&file, vec![7; bytes]).unwrap();
    file
}

/// A file of `runs` runs of one block, with a hole after each.
fn punched(file: PathBuf, runs: u64, block: u64) -> PathBuf {
    filled_and_punched(file, "pwrite -b 1m", runs, block)
}

fn filled_and_punched(file: PathBuf, fill: &str, runs: u64, block: u64) -> PathBuf {
    require(&["xfs_io"]);
    let name = file.display();
    sh(format!(
        "xfs_io -f -c '{fill} 0 {}' '{name}' >/dev/null
         for ((i = 0; i < {runs}; i++)); do echo \"fpunch $(((2 * i + 1) * {block})) {block}\"; done | xfs_io '{name}'",
        2 * runs * block
    ));
    assert_eq!(filefrag(&file).len() as u64, runs);
    file
}

/// Bytes that say nothing, the same in each run of the tests.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// A record decoded by the documentation of its layout, without the product's code.
struct Decoded {
    head: Vec<u8>,
    map: Vec<u8>,
}

impl Decoded {
    #[track_caller]
    fn new(record: &[u8]) -> Decoded {
        let (body, sum) = record.split_at(record.len() - 8);
        assert_eq!(&sha256_of(body)[..8], sum, "the checksum");
        assert_eq!(&body[..8], b"daxfile\x01");
        assert_eq!(body[11], 0);
        Decoded { head: body[..100].to_vec(), map: body[100..].to_vec() }
    }

    fn number(&self, offset: usize, bytes: usize) -> u64 {
        little(&self.head[offset..offset + bytes])
    }

    fn runs(&self) -> Vec<Piece> {
        assert_eq!((self.head[10], self.map.len() % 25), (0, 0));
        let run = |run: &[u8]| Piece {
            logical: little(&run[..8]),
            physical: little(&run[8..16]),
            length: little(&run[16..24]),
            unwritten: [false, true][usize::from(run[24])],
            shared: false,
        };
        self.map.chunks(25).map(run).collect()
    }

    /// The length of a span and the digest of each.
    fn digests(&self) -> (u64, Vec<&[u8]>) {
        assert_eq!((self.head[10], self.map.len() % 16), (1, 8));
        (little(&self.map[..8]), self.map[8..].chunks(16).collect())
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn sha256_of(bytes: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let hex = sh(on(file.path(), "sha256sum <$F"));
    (0..32).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
}

/// The runs that touch a span, cut to it, as a record keeps them.
fn cut_to(pieces: &[Piece], from: u64, to: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let (start, end) = (piece.logical.max(from), (piece.logical + piece.length).min(to));
        if start < end {
            bytes.extend(start.to_le_bytes());
            bytes.extend((piece.physical + (start - piece.logical)).to_le_bytes());
            bytes.extend((end - start).to_le_bytes());
            bytes.push(piece.unwritten.into());
        }
    }
    bytes
}

/// `stat -c` of a time, `1700000000.000000001`, as the record keeps it.
fn seconds_and_nanoseconds(file: &Path, format: &str) -> (u64, u64) {
    let text = sh(format!("stat -c {format} '{}'", file.display()));
    let (seconds, nanoseconds) = text.trim().split_once('.').unwrap();
    (seconds.parse().unwrap(), nanoseconds.parse().unwrap())
}

#[test]
fn record_matches_other_tools() {
    require(&["lsattr", "blkid", "xfs_io"]);
    for kind in [Kind::xfs(), Kind::ext4(), Xfs { block_size: 1024, ..Xfs::default() }.into()] {
        let scratch = Scratch::new(kind);
        let block = scratch.kind().block_size();
        let file = punched(scratch.path("file"), 9, block);
        sh(format!("xfs_io -c 'falloc {block} {block}' '{}'", file.display()));
        let before = filefrag(&file);
        assert!(before.iter().any(|piece| piece.unwritten) && before.len() > 9);
        let (earliest, _) = seconds_and_nanoseconds(&file, "%.9Z");
        run(&["pin", "--allow", "unwritten,hole", "--max-extents", "77"], &file).expect(0);

        let bytes = record(&file);
        let decoded = Decoded::new(&bytes);
        assert_eq!(&decoded.head[8..11], [0, 1 | 2, 0], "hold, allowed, form");
        // FS_XFLAG_IMMUTABLE, FS_XFLAG_NODEFRAG
        let added = if scratch.kind().name() == "xfs" { 0x8 | 0x2000 } else { 0x8 };
        assert_eq!(decoded.number(12, 4), added);
        let of_stat =
            |format: &str| -> u64 { sh(format!("stat -c {format} '{}'", file.display())).trim().parse().unwrap() };
        assert_eq!(decoded.number(16, 8), of_stat("%i"));
        let versions = sh(format!("lsattr -v '{}'", file.display()));
        assert_eq!(decoded.number(24, 4).to_string(), versions.split_whitespace().next().unwrap());
        let uuid = sh(format!("blkid -p -s UUID -o value '{}'", scratch.device().display())).replace('-', "");
        let recorded: String = decoded.head[28..44].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(recorded, uuid.trim());
        assert_eq!(decoded.number(44, 8), of_stat("%s"));
        assert_eq!((decoded.number(52, 8), decoded.number(60, 4)), seconds_and_nanoseconds(&file, "%.9Y"));
        let (latest, _) = seconds_and_nanoseconds(&file, "%.9Z");
        assert!((earliest..=latest).contains(&decoded.number(64, 8)) && decoded.number(72, 4) < 1_000_000_000);
        assert_eq!((decoded.number(76, 8), decoded.number(84, 8)), (0, 77));
        assert_eq!(decoded.number(92, 8), before.len() as u64);
        assert_eq!(decoded.runs(), before);
        assert_eq!(filefrag(&file), before);
        let pinned_at = report(&["stat"], &file, 0)["pin"]["pinned_at"].as_str().unwrap().to_owned();
        assert_eq!(sh(format!("date -d '{pinned_at}' +%s")).trim(), decoded.number(64, 8).to_string());

        // The other hold's record is of the same form.
        run(&["unpin"], &file).expect(0);
        run(&["pin", "--hold", "none", "--allow", "unwritten,hole"], &file).expect(0);
        assert_eq!(attribute(&file, ENFORCED), None);
        let none = Decoded::new(&attribute(&file, UNENFORCED).unwrap());
        assert_eq!((none.head[8], none.number(12, 4), none.number(84, 8)), (1, 0, 0));
        assert_eq!((&none.head[16..64], none.runs()), (&decoded.head[16..64], before));
        run(&["unpin"], &file).expect(0);
        assert_eq!(attribute(&file, UNENFORCED), None);
    }
}

#[test]
fn record_of_100_000_extents_fits_as_digests() {
    // The way to fill each file, and its size, save time: XFS takes long to punch unwritten blocks.
    let (xfs, ext4) = (Kind::from(Xfs { block_size: 1024, ..Xfs::default() }), Kind::ext4());
    for (kind, size, fill) in [(xfs, 512 << 20, "pwrite -b 1m"), (ext4, 1 << 30, "falloc")] {
        let runs = 100_000;
        let scratch = Scratch::with_size(kind, size);
        let file = filled_and_punched(scratch.path("file"), fill, runs, scratch.kind().block_size());
        run(&["pin", "--allow", "hole,unwritten"], &file).expect(0);
        let bytes = record(&file);
        assert!(bytes.len() <= 3072, "{} bytes", bytes.len());
        let decoded = Decoded::new(&bytes);
        assert_eq!(decoded.number(92, 8), runs);
        let (span, digests) = decoded.digests();
        assert!(span.is_power_of_two() && span >= 1 << 20);
        let size = fs::metadata(&file).unwrap().len();
        assert_eq!(digests.len() as u64, size.div_ceil(span));
        let pieces = filefrag(&file);
        for (index, digest) in (0..).zip(&digests) {
            let expected = sha256_of(&cut_to(&pieces, index * span, (index + 1) * span));
            assert_eq!(&expected[..16], *digest, "span {index}");
        }
        run(&["verify"], &file).expect(0);

        // A change of one block bypasses the tool: the span of that block is named, and no other.
        let name = file.display();
        let times = sh(format!("stat -c %y '{name}'"));
        sh(format!(
            "chattr -i '{name}' && xfs_io -c 'fpunch {span} 4k' '{name}' && touch -d '{}' '{name}'",
            times.trim()
        ));
        sh(format!("chattr +i '{name}'"));
        let drift = report(&["verify"], &file, 1);
        assert_eq!(drift["pin"]["state"], "drifted");
        let changes = drift["changes"].as_array().unwrap();
        assert_eq!(changes.len(), 1, "{drift}");
        assert_eq!((changes[0]["logical"].as_u64(), changes[0]["length"].as_u64()), (Some(span), Some(span)));
        run(&["unpin"], &file).expect(0);
    }
}

/// A copy by root with `cp -a` has the record, but not the flag.
#[test]
fn a_copied_record_is_foreign() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let (here, there) = (Scratch::new(kind.clone()), Scratch::new(kind.clone()));
        let file = create(here.path("file"), 3 << 17);
        run(&["pin"], &file).expect(0);
        let original = record(&file);

        // The first file there: on XFS it gets the inode number that the original has here.
        let mut copies = vec![there.path("copy"), here.path("copy"), here.path("second")];
        for copy in &copies {
            sh(format!("cp -a --reflink=never '{}' '{}'", file.display(), copy.display()));
        }
        if kind.name() == "xfs" {
            assert_eq!(fs::metadata(&file).unwrap().ino(), fs::metadata(&copies[0]).unwrap().ino());
            let clone = here.path("clone");
            sh(format!("cp -a --reflink=always '{}' '{}'", file.display(), clone.display()));
            run(&["check"], &clone).expect(1);
            // Preparing leaves the clone's record as it is.
            run(&["prepare"], &clone).expect(0);
            copies.push(clone);
        }
        for (n, copy) in copies.iter().enumerate() {
            assert_eq!(record(copy), original);
            assert!(!xflags(copy).contains('i'));
            assert_eq!(state(copy), "foreign_record");
            assert!(run(&["stat"], copy).expect(0).text().contains("foreign record"));
            let verified = report(&["verify"], copy, 1);
            assert_eq!(verified["pin"]["state"], "foreign_record");
            assert!(notes(&verified).contains("another file"), "{verified}");
            let before = everything(copy);
            assert!(notes(&report(&["check"], copy, 0)).contains("another file"));
            report(&["pin", "--dry-run"], copy, 0);
            report(&["unpin", "--dry-run"], copy, 0);
            assert_eq!(everything(copy), before);
            if n != 2 {
                run(&["pin"], copy).expect(0);
                assert_ne!(record(copy), original);
                assert_eq!(Decoded::new(&record(copy)).number(16, 8), fs::metadata(copy).unwrap().ino());
                assert_eq!(state(copy), "pinned");
                run(&["verify"], copy).expect(0);
            }
            let held = xflags(copy);
            run(&["unpin"], copy).expect(0);
            assert_eq!(attribute(copy, ENFORCED), None);
            assert_eq!(state(copy), "unpinned");
            if n == 2 {
                assert_eq!(xflags(copy).replace('X', "-"), held.replace('X', "-"), "it moved a flag");
            }
            fs::write(copy, "can be written").unwrap();
        }
        assert_eq!(record(&file), original);
        run(&["verify"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
    }
}

#[test]
fn a_copied_record_does_not_survive_a_pin_with_the_other_hold() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let [frozen, none] = ["frozen", "none"].map(|hold| {
            let file = create(scratch.path(hold), 100_000);
            run(&["pin", "--hold", hold], &file).expect(0);
            file
        });
        let copy = |from: &Path, name: &str| {
            let to = scratch.path(name);
            sh(format!("cp -a --reflink=never '{}' '{}'", from.display(), to.display()));
            assert_eq!(state(&to), "foreign_record");
            to
        };
        for (from, name, hold) in [(&frozen, "frozen then none", "none"), (&none, "none then frozen", "frozen")] {
            let copy = copy(from, name);
            let pinned = report(&["pin", "--hold", hold], &copy, 0);
            assert_eq!((&pinned["pin"]["state"], &pinned["pin"]["hold"]), (&"pinned".into(), &hold.into()), "{name}");
            run(&["verify"], &copy).expect(0);
            run(&["unpin"], &copy).expect(0);
            assert_eq!((attribute(&copy, ENFORCED), attribute(&copy, UNENFORCED)), (None, None), "{name}");
            assert_eq!(state(&copy), "unpinned");
        }
        // A record that another one hid does not appear either.
        let both = copy(&frozen, "both");
        set_attribute(&both, UNENFORCED, &attribute(&none, UNENFORCED).unwrap());
        run(&["pin"], &both).expect(0);
        run(&["verify"], &both).expect(0);
        report(&["unpin", "--dry-run"], &both, 0);
        run(&["unpin"], &both).expect(0);
        assert_eq!((attribute(&both, ENFORCED), attribute(&both, UNENFORCED)), (None, None));
        // An unreadable record in the other attribute goes as well.
        for (name, bad, hold) in [("bad security", ENFORCED, "none"), ("bad user", UNENFORCED, "frozen")] {
            let file = create(scratch.path(name), 100_000);
            set_attribute(&file, bad, b"no record");
            assert_eq!(state(&file), "bad_record");
            run(&["pin", "--hold", hold], &file).expect(0);
            run(&["verify"], &file).expect(0);
            run(&["unpin"], &file).expect(0);
            assert_eq!(state(&file), "unpinned");
        }
        run(&["unpin"], &frozen).expect(0);
    }
}

#[test]
fn a_pin_survives_the_image_moving() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let mut scratch = Scratch::new(kind.clone());
        let names = ["frozen", "none"];
        for name in names {
            let file = create(scratch.path(name), 300_000);
            run(&["pin", "--hold", name], &file).expect(0);
        }
        let verify = |file: PathBuf, note: &str| {
            let verified = report(&["verify"], &file, 0);
            assert_eq!(verified["pin"]["state"], "pinned");
            match note {
                "" => assert_eq!(notes(&verified), ""),
                note => assert!(notes(&verified).contains(note), "no {note} in {verified}"),
            }
            run(&["verify", "--strict"], &file).expect(0);
        };

        let elsewhere = scratch.mount_elsewhere();
        names.iter().for_each(|name| verify(elsewhere.path(name), ""));
        drop(elsewhere);

        let twin = scratch.twin(|_| (), if kind.name() == "xfs" { "nouuid" } else { "" });
        names.iter().for_each(|name| verify(scratch.path(name), ""));
        names.iter().for_each(|name| verify(twin.path(name), ""));
        // Each is unpinned for itself.
        run(&["unpin"], &twin.path("frozen")).expect(0);
        fs::write(twin.path("frozen"), "can be written").unwrap();
        names.iter().for_each(|name| verify(scratch.path(name), ""));
        drop(twin);

        require(&["xfs_admin", "tune2fs", "e2fsck"]);
        let another_uuid = |image: &Path| {
            let image = image.display();
            sh(match kind.name() {
                "xfs" => format!("xfs_admin -U generate '{image}'"),
                // tune2fs insists on a filesystem that was checked; e2fsck's 1 means that it corrected something.
                _ => format!("e2fsck -fy '{image}' || test $? = 1; tune2fs -U random '{image}'"),
            });
        };
        let twin = scratch.twin(another_uuid, "");
        names.iter().for_each(|name| verify(twin.path(name), "UUID"));
        run(&["pin"], &twin.path("frozen")).expect(0);
        run(&["unpin"], &twin.path("frozen")).expect(0);
        assert_eq!(state(&twin.path("frozen")), "unpinned");
        assert!(!xflags(twin.path("frozen")).contains('i'));
        drop(twin);
        names.iter().for_each(|name| verify(scratch.path(name), ""));
        run(&["unpin"], &scratch.path("frozen")).expect(0);
    }
}

/// A value that an attacker may put in place of the record, and the expected results.
struct Forgery {
    name: String,
    attribute: &'static str,
    value: Vec<u8>,
    state: &'static str,
    /// Status of `verify`
    verify: i32,
    /// Status of `check`, `pin` and `unpin` on a file that the administrator made immutable
    immutable: i32,
}

/// Forgeries for a file whose own record is `own`, and where `another` is another file's.
fn forgeries(own: &[u8], another: &[u8], largest: usize) -> Vec<Forgery> {
    let mut forgeries = Vec::new();
    let mut add = |name: &str, attribute, value: Vec<u8>, state, (verify, immutable)| {
        forgeries.push(Forgery { name: name.into(), attribute, value, state, verify, immutable });
    };
    let (foreign, bad, unknown) = (("foreign_record", (1, 1)), ("bad_record", (2, 1)), ("bad_record", (2, 2)));
    add("another's", ENFORCED, another.to_vec(), foreign.0, foreign.1);
    add("an enforced one where its owner may write", UNENFORCED, own.to_vec(), bad.0, bad.1);
    add("another's where its owner may write", UNENFORCED, another.to_vec(), bad.0, bad.1);
    for attribute in [ENFORCED, UNENFORCED] {
        add("nothing", attribute, Vec::new(), bad.0, bad.1);
        add("noise", attribute, noise(own.len()), bad.0, bad.1);
        add("too much noise", attribute, noise(largest), bad.0, bad.1);
        add("the magic number", attribute, b"daxfile".to_vec(), bad.0, bad.1);
        add("version 3", attribute, b"daxfile\x03".to_vec(), unknown.0, unknown.1);
        add("version 3 of the same length", attribute, [&own[..7], &[3], &own[8..]].concat(), unknown.0, unknown.1);
        add("version 0", attribute, [&own[..7], &[0], &own[8..]].concat(), unknown.0, unknown.1);
        let long = [&own[..7], &[3], &noise(largest)[8..]].concat();
        add("a long one of version 3", attribute, long, unknown.0, unknown.1);
    }
    for length in [8, 20, 99, 100, 108, own.len() - 8, own.len() - 1] {
        add(&format!("cut to {length}"), ENFORCED, own[..length].to_vec(), bad.0, bad.1);
    }
    add("one byte more", ENFORCED, [own, &[0]].concat(), bad.0, bad.1);
    // Magic number, hold, allowed, form, reserved, flags, inode, generation, UUID, size, mtime, runs, checksum
    for byte in [0, 8, 9, 10, 11, 12, 13, 16, 24, 28, 44, 52, 60, 92, 100, 108, 116, 124, own.len() - 1] {
        let mut value = own.to_vec();
        value[byte] ^= 1;
        add(&format!("bit flipped in byte {byte}"), ENFORCED, value, bad.0, bad.1);
    }
    forgeries
}

/// A file and the record that a pin gave it, unpinned again; and another's.
fn own_and_another(scratch: &Scratch) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let [file, other] = ["file", "other"].map(|name| create(scratch.path(name), 100_000));
    let [own, another] = [&file, &other].map(|file| {
        run(&["pin"], file).expect(0);
        let record = record(file);
        run(&["unpin"], file).expect(0);
        record
    });
    (file, own, another)
}

/// The largest value of one attribute.
fn largest(kind: &Kind) -> usize {
    // On ext4, a block and a little in the inode.
    if kind.name() == "xfs" { 65_536 } else { 3_900 }
}

#[test]
fn a_forged_record_moves_no_flag() {
    require(&["chattr"]);
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind.clone());
        let (file, own, another) = own_and_another(&scratch);
        let name = file.display();
        for forgery in forgeries(&own, &another, largest(&kind)) {
            let what = format!("{}: {} in {}", kind.name(), forgery.name, forgery.attribute);
            set_attribute(&file, forgery.attribute, &forgery.value);
            sh(format!("chattr +i '{name}'"));
            let before = everything(&file);
            assert!(before.0.contains('i'));
            for verb in VERBS {
                let run = run(verb, &file);
                let status = match verb[0] {
                    "stat" => 0,
                    "verify" => forgery.verify,
                    _ => forgery.immutable,
                };
                assert_eq!(run.status, status, "{what}: {run}");
                let metadata = fs::metadata(&file).unwrap();
                assert_eq!(
                    (metadata.ctime(), metadata.ctime_nsec()),
                    before.3[1],
                    "{what}: {verb:?} touched it: {run}"
                );
            }
            assert_eq!(everything(&file), before, "{what}");
            assert_eq!(state(&file), forgery.state, "{what}");
            sh(format!("chattr -i '{name}'; setfattr -x {} '{name}'", forgery.attribute));
        }
    }
}

#[test]
fn pin_replaces_forged_records_but_no_unknown_version() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind.clone());
        let (file, own, another) = own_and_another(&scratch);
        let clean = xflags(&file).replace('X', "-");
        for forgery in forgeries(&own, &another, largest(&kind)) {
            let what = format!("{}: {} in {}", kind.name(), forgery.name, forgery.attribute);
            set_attribute(&file, forgery.attribute, &forgery.value);
            assert_eq!(state(&file), forgery.state, "{what}");
            assert_eq!(run(&["verify"], &file).status, forgery.verify, "{what}");
            if forgery.immutable == 2 {
                let before = everything(&file);
                for verb in VERBS {
                    let run = run(verb, &file);
                    assert_eq!(run.status, if verb[0] == "stat" { 0 } else { 2 }, "{what}: {run}");
                    assert!(verb[0] == "stat" || run.stderr.contains("version"), "{what}: {run}");
                }
                assert_eq!(everything(&file), before, "{what}");
                sh(format!("setfattr -x {} '{}'", forgery.attribute, file.display()));
                continue;
            }
            assert_eq!(run(&["check"], &file).status, 0, "{what}");
            run(&["unpin"], &file).expect(0);
            assert_eq!(attribute(&file, forgery.attribute), None, "{what}");
            assert_eq!(xflags(&file).replace('X', "-"), clean, "{what}");

            set_attribute(&file, forgery.attribute, &forgery.value);
            run(&["pin", "--hold", "none"], &file).expect(0);
            assert_eq!(xflags(&file).replace('X', "-"), clean, "{what}");
            run(&["verify"], &file).expect(0);
            run(&["unpin"], &file).expect(0);
        }
        // And so with the enforced hold.
        for (attribute, value) in [(ENFORCED, noise(500)), (UNENFORCED, own.clone()), (ENFORCED, noise(largest(&kind)))]
        {
            set_attribute(&file, attribute, &value);
            run(&["pin"], &file).expect(0);
            run(&["verify"], &file).expect(0);
            assert_eq!(Decoded::new(&record(&file)).runs(), filefrag(&file));
            run(&["unpin"], &file).expect(0);
            assert_eq!(xflags(&file).replace('X', "-"), clean);
            assert_eq!(state(&file), "unpinned");
        }
    }
}

/// A user's own pin with hold none does not claim the flag that the administrator sets later.
/// If another program's flags prevent the removal of the record, the message says so, not that root lacks a privilege.
#[test]
fn unpin_names_flags_in_the_way() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        for (flags, hold, says) in [
            ("i", "none", "immutable, but not by its pin: chattr -i first"),
            ("a", "none", "append-only: chattr -a first"),
            ("ia", "frozen", "append-only: chattr -ia first"),
        ] {
            let file = scratch.path(format!("{flags}-{hold}"));
            sh(on(&file, "xfs_io -f -c 'pwrite -q 0 64k' -c fsync $F"));
            run(&["pin", "--hold", hold], &file).expect(0);
            sh(on(&file, &format!("chattr -i $F; chattr +{flags} $F")));
            for options in [&["unpin"][..], &["unpin", "--dry-run"]] {
                let answer = run(options, &file).expect(1);
                assert!(answer.stderr.contains(says), "{answer}");
            }
            sh(on(&file, &format!("chattr -{flags} $F")));
            run(&["unpin"], &file).expect(0);
        }
    });
}

#[test]
fn an_unenforced_record_moves_no_flag() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = create(scratch.path("file"), 100_000);
        run(&["pin", "--hold", "none"], &file).expect(0);
        sh(format!("chattr +i '{}'", file.display()));
        let before = everything(&file);
        for verb in VERBS {
            run(verb, &file);
            assert_eq!(everything(&file), before, "{verb:?}");
        }
        run(&["verify"], &file).expect(0);
        run(&["pin"], &file).expect(1);
        assert_ne!(run(&["unpin"], &file).status, 0);
        sh(format!("chattr -i '{}'", file.display()));
        run(&["unpin"], &file).expect(0);
    }
}

#[test]
fn a_record_shrinks_where_there_is_little_room() {
    let small = || Kind::from(Ext4 { block_size: 1024, ..Ext4::default() });
    // The size of the file's other attributes, and runs: too many for the room that is left.
    for (kind, other, runs) in [(small(), 0, 40), (small(), 0, 118), (small(), 0, 5_000), (Kind::ext4(), 3_000, 50)] {
        for hold in ["frozen", "none"] {
            let scratch = Scratch::new(kind.clone());
            let block = kind.block_size();
            let file = punched(scratch.path("file"), runs, block);
            if other > 0 {
                set_attribute(&file, "user.other", &noise(other));
            }
            let args = ["pin", "--allow", "hole", "--hold", hold];
            run(&args, &file).expect(0);
            let name = if hold == "frozen" { ENFORCED } else { UNENFORCED };
            let bytes = attribute(&file, name).unwrap();
            assert!(bytes.len() <= 800, "{runs} runs, {} bytes", bytes.len());
            let decoded = Decoded::new(&bytes);
            assert_eq!(decoded.number(92, 8), runs);
            let (span, digests) = decoded.digests();
            assert_eq!(digests.len() as u64, (2 * runs * block).div_ceil(span));
            assert_eq!(&sha256_of(&cut_to(&filefrag(&file), 0, span))[..16], digests[0]);
            run(&["verify"], &file).expect(0);
            run(&args, &file).expect(0);
            assert_eq!(attribute(&file, name).unwrap(), bytes);
            run(&["unpin"], &file).expect(0);
            assert_eq!(attribute(&file, name), None);
            if other > 0 {
                assert_eq!(attribute(&file, "user.other").unwrap(), noise(other));
            }
        }
    }
    // Whole runs where they fit, though only just.
    let scratch = Scratch::new(small());
    let file = punched(scratch.path("file"), 27, 1024);
    run(&["pin", "--allow", "hole"], &file).expect(0);
    assert_eq!(Decoded::new(&record(&file)).runs(), filefrag(&file));
    run(&["unpin"], &file).expect(0);
}

#[test]
fn a_record_without_any_room_changes_nothing() {
    const ENOSPC: i32 = 28;
    let small = Kind::from(Ext4 { block_size: 1024, ..Ext4::default() });
    for (kind, other) in [(small, 940), (Kind::ext4(), 4_030)] {
        let scratch = Scratch::new(kind);
        let file = create(scratch.path("file"), 100_000);
        let large = punched(scratch.path("large"), 200, scratch.kind().block_size());
        for file in [&file, &large] {
            set_attribute(file, "user.other", &noise(other));
            let before = everything(file);
            for hold in ["frozen", "none"] {
                let failed = report(&["pin", "--allow", "hole", "--hold", hold], file, 2);
                assert_eq!(failed["error"]["errno"], ENOSPC, "{failed}");
                assert!(failed["action"].is_null(), "{failed}");
                assert_eq!(everything(file), before);
            }
            assert_eq!(state(file), "unpinned");
        }
        // A foreign record that cannot be overwritten stays.
        let other = create(scratch.path("tiny"), 1);
        set_attribute(&other, ENFORCED, b"bad");
        set_attribute(&other, "user.other", &attribute(&file, "user.other").unwrap());
        let before = everything(&other);
        report(&["pin"], &other, 2);
        assert_eq!(everything(&other), before);
    }
}

/// Hold none pins files in use: a file that grows while its record shrinks must still get a readable record.
#[test]
fn a_file_that_grows_while_its_record_shrinks_has_a_record_of_one_size() {
    require(&["strace", "truncate"]);
    let scratch = Scratch::new(Ext4 { block_size: 1024, ..Ext4::default() });
    let file = punched(scratch.path("file"), 60, 1024);
    // The kernel refuses the record for lack of room, and the call returns only after the file has grown.
    let strace = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fsetxattr:delay_exit=1500000:when=1"];
    // Open for writing, so that no lease delays other processes.
    let writer = fs::OpenOptions::new().write(true).open(&file).unwrap();
    let mut pin = Daxfile::new(["pin", "--hold", "none", "--allow", "hole"]).arg(&file).wrap(strace).command();
    let mut child = spawn(pin.stdout(Stdio::null()));
    std::thread::sleep(std::time::Duration::from_millis(700));
    writer.set_len(8 << 20).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let decoded = Decoded::new(&attribute(&file, UNENFORCED).unwrap());
    assert_eq!((decoded.number(44, 8), decoded.digests().1.len()), (120 * 1024, 1));
    let verified = report(&["verify"], &file, 1);
    assert_eq!((&verified["pin"]["state"], &verified["pin"]["size_was"]), (&"drifted".into(), &(120 * 1024).into()));
}

/// Names that a lookup could confuse with the record's.
#[test]
fn other_attributes_are_left_alone() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = create(scratch.path("file"), 100_000);
        let others = ["security.daxfile", "security.daxfile.pin2", "trusted.daxfile.pin", "user.daxfile.pins"];
        for other in others {
            set_attribute(&file, other, b"daxfile\x01");
        }
        assert_eq!(state(&file), "unpinned");
        run(&["pin"], &file).expect(0);
        run(&["unpin"], &file).expect(0);
        assert_eq!(sh_status(format!("getfattr -n {ENFORCED} '{}'", file.display())), 1);
        for other in others {
            assert_eq!(attribute(&file, other).unwrap(), b"daxfile\x01");
        }
    }
}

/// A record in the attribute of the other hold would come to light when the pin ends.
#[test]
fn pin_leaves_no_record_beside_its_own() {
    on_each(Kind::xfs_and_ext4(), |kind| {
        let scratch = Scratch::new(kind);
        let (file, other) = (scratch.path("file"), scratch.path("other"));
        for path in [&file, &other] {
            run(&["alloc", "-s", "1M"], path).expect(0);
        }
        run(&["pin", "--hold", "none"], &other).expect(0);
        let foreign = attribute(&other, UNENFORCED).unwrap();
        for junk in [&b"junk"[..], &foreign] {
            set_attribute(&file, UNENFORCED, junk);
            let said = report(&["pin"], &file, 0);
            assert!(notes(&said).contains("which pin overwrites"), "{said}");
            assert_eq!(attribute(&file, UNENFORCED), None);
            let unpinned = report(&["unpin"], &file, 0);
            assert_eq!(notes(&unpinned), "");
            assert_eq!(attribute(&file, ENFORCED), None);

            // Behind a foreign enforced record.
            set_attribute(&file, UNENFORCED, junk);
            set_attribute(&file, ENFORCED, b"junk");
            run(&["pin"], &file).expect(0);
            assert_eq!(attribute(&file, UNENFORCED), None);
            run(&["unpin"], &file).expect(0);

            // Put there later, by someone who could end the pin as well.
            run(&["pin"], &file).expect(0);
            sh(on(&file, "chattr -i $F"));
            set_attribute(&file, UNENFORCED, junk);
            sh(on(&file, "chattr +i $F"));
            let unpinned = report(&["unpin"], &file, 0);
            let said = notes(&unpinned);
            assert!(said.contains("as well, which is removed") && !said.contains("left alone"), "{unpinned}");
            assert_eq!((attribute(&file, UNENFORCED), attribute(&file, ENFORCED)), (None, None));
            assert!(!xflags(&file).contains(['i', 'f']), "the flags stay");

            // Put there while nothing held the file, by its owner: that delays no pin of root's.
            run(&["pin"], &file).expect(0);
            let own = attribute(&file, ENFORCED).unwrap();
            run(&["unpin"], &file).expect(0);
            run(&["pin", "--hold", "none"], &file).expect(0);
            set_attribute(&file, ENFORCED, &own);
            assert_eq!(state(&file), "not_held");
            run(&["pin"], &file).expect(0);
            assert_eq!((attribute(&file, UNENFORCED), state(&file).as_str()), (None, "pinned"));
            run(&["unpin"], &file).expect(0);

            // A caller who may not remove it changes nothing, and check knows that.
            set_attribute(&file, UNENFORCED, junk);
            let with = ["linux_immutable", "sys_admin", "fowner", "lease"];
            let as_other = |verb: &[&str]| Daxfile::new(verb).arg(&file).as_nobody_with(&with).run();
            let check = as_other(&["check"]).expect(0);
            assert!(check.text().contains("pin would fail for this user: removing the record"), "{check}");
            for verb in [&["pin", "--dry-run"][..], &["pin"]] {
                let refused = as_other(verb).expect(4);
                assert!(
                    refused.stderr.contains("removing the record that is in the way needs write access"),
                    "{refused}"
                );
            }
            assert_eq!(attribute(&file, UNENFORCED).as_deref(), Some(junk));
            assert_eq!(attribute(&file, ENFORCED), None);
            run(&["unpin"], &file).expect(0);
        }
    });
}

/// After a restore from a backup, the record is all that is left of the pin: every verb says how to pin the file again.
#[test]
fn a_foreign_record_names_the_pin_to_make_again() {
    let scratch = Scratch::new(Kind::ext4());
    let (file, copy) = (scratch.path("file"), scratch.path("a copy"));
    run(&["alloc", "-s", "1M"], &file).expect(0);
    let options = ["--hold", "none", "--align", "4K", "--max-extents", "9", "--allow", "hole,shared"];
    Daxfile::new(["pin"]).args(options).args(["--note", "for\nwhom it's"]).arg(&file).run().expect(0);
    sh(on(&file, "cp -a --reflink=never $F \"${F%/*}/a copy\"; sync \"${F%/*}/a copy\""));
    let pinned = report(&["stat"], &file, 0)["pin"].clone();
    let command = format!(
        "daxfile pin --hold none --align 4096 --max-extents 9 --allow hole,shared --note=$'for\\nwhom it\\'s' '{}'",
        copy.display()
    );
    let says = format!("to pin it like the recorded file: {command}");
    for verb in ["stat", "verify", "unpin"] {
        // The last one removes the record.
        let foreign = report(&[verb], &copy, i32::from(verb == "verify"));
        assert!(notes(&foreign).lines().any(|note| note == says), "{foreign}");
        if verb != "unpin" {
            assert_eq!(foreign["pin"]["state"], "foreign_record");
            for name in ["hold", "pinned_at", "note", "align", "max_extents", "dax", "allowed"] {
                assert_eq!(foreign["pin"]["foreign"][name], pinned[name], "{name}");
            }
            assert_eq!(foreign["pin"]["hold"], serde_json::Value::Null);
        }
    }
    let program = Daxfile::new([""; 0]).command().get_program().to_owned();
    let path = Path::new(&program).parent().unwrap().display().to_string();
    sh(format!("PATH={path}:$PATH; {command}"));
    let again = report(&["stat"], &copy, 0)["pin"].clone();
    for name in ["hold", "note", "align", "max_extents", "dax", "allowed"] {
        assert_eq!(again[name], pinned[name], "{name}");
    }
    assert_eq!((&again["state"], &again["foreign"]), (&"pinned".into(), &serde_json::Value::Null));
    // What pin replaces is named as well.
    run(&["unpin"], &copy).expect(0);
    sh(on(&file, "cp -a --reflink=never $F \"${F%/*}/a copy\"; sync \"${F%/*}/a copy\""));
    let said = notes(&report(&["pin"], &copy, 0));
    assert!(said.contains("has another file's pin record (--hold none --align 4096"), "{said}");
    run(&["unpin"], &copy).expect(0);
}

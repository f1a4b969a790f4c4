//! `verify --against`: compares files with earlier output of `stat --json --extents`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use daxfile_tests::generate::{Generated, Random, paths};
use daxfile_tests::tools::{Piece, filefrag, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch};
use serde_json::{Value, json};

const K: u64 = 1024;

fn stat<I: AsRef<OsStr>>(args: &[&str], dir: &Path, files: impl IntoIterator<Item = I>) -> Run {
    let command = Daxfile::new(["stat", "--json"]).dir(dir);
    let command = args.iter().fold(command, Daxfile::arg);
    files.into_iter().fold(command, Daxfile::arg).run()
}

/// A manifest beside the image, of these files, named as they are here from this directory.
fn manifest<I: AsRef<OsStr>>(scratch: &Scratch, dir: &Path, files: impl IntoIterator<Item = I>) -> PathBuf {
    let path = scratch.image().with_file_name("manifest.json");
    fs::write(&path, stat(&["--extents"], dir, files).expect(0).stdout).unwrap();
    path
}

fn against<I: AsRef<OsStr>>(manifest: &Path, args: impl IntoIterator<Item = I>) -> Run {
    args.into_iter().fold(Daxfile::new(["verify", "--json", "--against"]).arg(manifest), Daxfile::arg).run()
}

/// The status and the path of each file of a report.
fn statuses(run: &Run) -> Vec<(u64, PathBuf)> {
    let report = run.json();
    assert_eq!(report["exit_status"].as_i64(), Some(run.status.into()), "{run}");
    let files = report["files"].as_array().unwrap().iter();
    files.map(|file| (file["exit_status"].as_u64().unwrap(), file["path"].as_str().unwrap().into())).collect()
}

/// A small file of three extents, so that a change of one is not a change of all.
fn make(path: impl AsRef<Path>) {
    sh(format!(
        "xfs_io -f -c 'pwrite -q 0 64k' -c 'pwrite -q 128k 64k' -c 'falloc 256k 64k' -c fsync '{}'",
        path.as_ref().display()
    ));
}

/// Where a block is on the device, and whether it is unwritten; none for a hole.
type Place = Option<(u64, bool)>;

/// The differences between two maps, found block by block, in the form of daxfile's output.
fn changes(was: &[Piece], now: &[Piece], block: u64) -> Value {
    let blocks = |pieces: &[Piece]| {
        let mut blocks = BTreeMap::new();
        for piece in pieces {
            for offset in (0..piece.length).step_by(usize::try_from(block).unwrap()) {
                blocks.insert(piece.logical + offset, (piece.physical + offset, piece.unwritten));
            }
        }
        blocks
    };
    let (was, now) = (blocks(was), blocks(now));
    let mut ranges: Vec<(u64, u64, Place, Place)> = Vec::new();
    let all: BTreeMap<u64, ()> = was.keys().chain(now.keys()).map(|logical| (*logical, ())).collect();
    for logical in all.into_keys() {
        let (was, now) = (was.get(&logical).copied(), now.get(&logical).copied());
        let follows = |first: Place, length: u64, next: Place| {
            first.map(|(physical, unwritten)| (physical + length, unwritten)) == next
        };
        match ranges.last_mut() {
            _ if was == now => {}
            Some((start, length, from, to))
                if *start + *length == logical && follows(*from, *length, was) && follows(*to, *length, now) =>
            {
                *length += block;
            }
            _ => ranges.push((logical, block, was, now)),
        }
    }
    let place = |place: Place| match place {
        None => json!({"state": "hole"}),
        Some((physical, false)) => json!({"state": "written", "physical": physical}),
        Some((physical, true)) => json!({"state": "unwritten", "physical": physical}),
    };
    let change = |(logical, length, was, now)| json!({"logical": logical, "length": length, "was": place(was), "now": place(now)});
    ranges.into_iter().map(change).collect()
}

#[test]
fn equal_maps_are_equal() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let mut scratch = Scratch::new(kind);
        let files = [scratch.path("a"), scratch.path("b"), scratch.path("c")];
        files.iter().for_each(make);
        let manifest = manifest(&scratch, Path::new("/"), &files);
        for remounted in [false, true] {
            if remounted {
                scratch.remount();
            }
            for some in [&files[..], &files[1..2], &[]] {
                let run = against(&manifest, some).expect(0);
                let named = if some.is_empty() { &files } else { some };
                assert_eq!(statuses(&run), named.iter().map(|file| (0, file.clone())).collect::<Vec<_>>());
                for file in run.json()["files"].as_array().unwrap() {
                    assert_eq!((&file["changes"], &file["error"]), (&json!([]), &Value::Null));
                }
            }
        }
        // A list of names is as good as names.
        let list = files.map(|file| file.to_str().unwrap().to_owned()).join("\n");
        let run = Daxfile::new(["verify", "--files-from", "-", "--against"]).arg(&manifest).stdin(list).run().expect(0);
        assert_eq!(run.text().lines().filter(|line| line.contains(": unchanged")).count(), 3, "{run}");
    }
}

#[test]
fn verify_names_old_and_new_places() {
    let random = Random::new("verify_against");
    for (number, kind) in (0..).zip([Kind::xfs(), Kind::ext4()]) {
        let mut random = random.fork(number);
        let scratch = Scratch::new(kind.clone());
        let sync = || sh(format!("sync --file-system '{}'", scratch.mount_point().display()));
        let mut files: Vec<Generated> = Vec::new();
        for number in 0..16 {
            let mut file = Generated::new(scratch.path(format!("file.{number}")));
            file.work(&scratch, &mut random, &files, 40);
            files.push(file);
        }
        sync();
        let manifest = manifest(&scratch, Path::new("/"), paths(&files));
        let before: Vec<(Vec<Piece>, u64)> =
            paths(&files).map(|path| (filefrag(path), fs::metadata(path).unwrap().len())).collect();

        let peers = files.clone();
        for file in files.iter_mut().skip(4) {
            let steps = 1 + random.below(12);
            file.work(&scratch, &mut random, &peers, steps);
        }
        sync();
        let report = against(&manifest, paths(&files)).expect(1).json();
        let block = kind.block_size();
        let mut drifted = 0;
        for ((file, (was, size_was)), said) in files.iter().zip(&before).zip(report["files"].as_array().unwrap()) {
            let (now, size) = (filefrag(&file.path), fs::metadata(&file.path).unwrap().len());
            let changes = changes(was, &now, block);
            let history = file.history();
            assert_eq!(said["changes"], changes, "{was:?}\n{now:?}\n{history}");
            let differs = changes != json!([]) || size != *size_was;
            assert_eq!(said["exit_status"].as_u64(), Some(differs.into()), "{said}\n{history}");
            drifted += u32::from(differs);
        }
        // The first four were left alone.
        assert!((6..=12).contains(&drifted), "{drifted} drifted");
    }
}

#[test]
fn text_shows_was_and_now() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    make(&file);
    let manifest = manifest(&scratch, Path::new("/"), [&file]);
    let was = filefrag(&file);
    sh(format!("xfs_io -c 'fpunch 4k 8k' -c 'falloc 128k 1m' -c 'pwrite -q 256k 4k' -c fsync '{}'", file.display()));
    let now = filefrag(&file);
    let run = Daxfile::new(["verify", "--against"]).arg(&manifest).arg(&file).run().expect(1);
    let rows: Vec<Vec<&str>> = run.text().lines().map(|line| line.split_whitespace().collect()).collect();
    // The verdict is about the map, not about whether the file is pinned.
    assert_eq!(rows[0], [format!("{}:", file.display()).as_str(), "differs"], "{run}");
    let punched = format!("4096 8192 at {} hole", was[0].physical + 4 * K);
    assert!(rows.iter().any(|row| row.join(" ") == punched), "no row '{punched}' in {run}");
    let place = |pieces: &[Piece]| {
        let piece = pieces.iter().find(|p| p.logical <= 256 * K && 256 * K < p.logical + p.length).unwrap();
        let physical = piece.physical + 256 * K - piece.logical;
        if piece.unwritten { format!("unwritten at {physical}") } else { format!("at {physical}") }
    };
    let written = format!("262144 4096 {} {}", place(&was), place(&now));
    assert!(rows.iter().any(|row| row.join(" ") == written), "no row '{written}' in {run}");
}

/// The size counts, too: within the last block, bytes come and go without a change of the map.
#[test]
fn another_size_is_drift() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    make(&file);
    let manifest = manifest(&scratch, Path::new("/"), [&file]);
    sh(format!("truncate -s -1 '{}'", file.display()));
    let run = against(&manifest, [&file]).expect(1);
    assert_eq!(run.json()["files"][0]["changes"], json!([]), "{run}");
    assert!(run.text().contains("327680 bytes in the manifest, 327679 now"), "{run}");
}

#[test]
fn an_entry_without_its_file_is_drift() {
    let scratch = Scratch::new(Kind::xfs());
    let [here, gone] = [scratch.path("here"), scratch.path("gone")];
    [&here, &gone].into_iter().for_each(make);
    let manifest = manifest(&scratch, Path::new("/"), [&here, &gone]);
    fs::remove_file(&gone).unwrap();
    let both = [(0, here.clone()), (1, gone.clone())];
    for named in [vec![], vec![&here], vec![&here, &gone]] {
        let run = against(&manifest, &named).expect(1);
        assert_eq!(statuses(&run), both, "{named:?}: {run}");
        assert!(run.text().contains("does not exist"), "{run}");
    }
    let run = against(&manifest, [&gone]).expect(1);
    assert_eq!(statuses(&run), [(1, gone.clone())]);

    // The directory that it was in may be gone, too.
    let below = scratch.path("dir/file");
    fs::create_dir(scratch.path("dir")).unwrap();
    make(&below);
    let manifest = self::manifest(&scratch, Path::new("/"), [&below]);
    sh(format!("rm -r '{0}'; touch '{0}'", scratch.path("dir").display()));
    assert_eq!(statuses(&against(&manifest, [""; 0]).expect(1)), [(1, below)]);
}

#[test]
fn a_file_without_an_entry_is_an_error() {
    let scratch = Scratch::new(Kind::ext4());
    let [known, strange, missing] = [scratch.path("known"), scratch.path("strange"), scratch.path("missing")];
    [&known, &strange].into_iter().for_each(make);
    let manifest = manifest(&scratch, Path::new("/"), [&known]);
    let run = against(&manifest, [&known, &strange, &missing]).expect(2);
    assert_eq!(statuses(&run), [(0, known), (2, strange.clone()), (2, missing.clone())]);
    for (file, what) in [(strange, "the manifest has no entry for it"), (missing, "No such file")] {
        let said = format!("daxfile verify: {}: ", file.display());
        let line = run.stderr.lines().find(|line| line.starts_with(&said)).unwrap_or_else(|| panic!("{said}? {run}"));
        assert!(line.contains(what), "{run}");
    }
}

/// A file that cannot be examined is neither equal nor drifted.
#[test]
fn file_replaced_by_a_directory_is_an_error() {
    let scratch = Scratch::new(Kind::xfs());
    let names = ["directory", "link", "secret"].map(|name| scratch.path(name));
    names.iter().for_each(make);
    let manifest = manifest(&scratch, Path::new("/"), &names);
    sh(format!("cd '{}'; rm directory link; mkdir directory; ln -s secret link", scratch.mount_point().display()));
    assert_eq!(statuses(&against(&manifest, [""; 0]).expect(2)).iter().map(|(s, _)| *s).collect::<Vec<_>>(), [2, 2, 0]);

    sh(format!("chmod 600 '{}'", names[2].display()));
    let run = Daxfile::new(["verify", "--against"]).arg(&manifest).arg(&names[2]).as_nobody().run();
    run.expect(4);
}

#[test]
fn manifest_without_extents_is_an_error() {
    let scratch = Scratch::new(Kind::ext4());
    let [file, gone] = [scratch.path("file"), scratch.path("gone")];
    make(&file);
    let manifest = scratch.image().with_file_name("manifest.json");
    fs::write(&manifest, stat(&[], Path::new("/"), [&file]).expect(0).stdout).unwrap();
    let run = against(&manifest, [&file]).expect(2);
    assert!(run.stderr.contains("stat --json --extents"), "{run}");

    // The entry of a file that was missing already does not serve either: it has no map of the file.
    fs::write(&manifest, stat(&["--extents"], Path::new("/"), [&file, &gone]).expect(2).stdout).unwrap();
    assert_eq!(statuses(&against(&manifest, [""; 0]).expect(2)), [(0, file.clone()), (2, gone.clone())]);
    make(&gone);
    assert_eq!(statuses(&against(&manifest, [""; 0]).expect(2)), [(0, file), (2, gone)]);
}

#[test]
fn manifest_works_at_another_mount_point() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let mut scratch = Scratch::new(kind);
        let names = ["top", "dir/below", "dir/moved"];
        fs::create_dir(scratch.path("dir")).unwrap();
        let files = names.map(|name| scratch.path(name));
        files.iter().for_each(make);
        let absolute = scratch.image().with_file_name("absolute.json");
        fs::rename(manifest(&scratch, Path::new("/"), &files), &absolute).unwrap();
        // "./top" is "top"
        let relative = manifest(&scratch, scratch.mount_point(), ["./top", "dir/below", "dir/moved"]);
        let was = filefrag(&files[2]);
        sh(format!("xfs_io -c 'fpunch 0 4k' '{}'", files[2].display()));
        let expected = changes(&was, &filefrag(&files[2]), 4096);

        let elsewhere = scratch.mount_elsewhere();
        let there = names.map(|name| elsewhere.path(name));
        let root = elsewhere.mount_point();
        let all: Vec<_> = [0, 0, 1].into_iter().zip(there.clone()).collect();

        // The absolute paths lead to no file now; files on the command line are found by inode and generation.
        assert_eq!(
            statuses(&against(&absolute, [""; 0]).expect(1)),
            [1, 1, 1].into_iter().zip(files).collect::<Vec<_>>()
        );
        for args in [vec![], vec!["--root".into(), root.to_owned()]] {
            let run = against(&absolute, args.iter().chain(&there)).expect(1);
            assert_eq!(statuses(&run), all, "{run}");
            assert_eq!(run.json()["files"][2]["changes"], expected, "{run}");
        }

        // Files are found by their paths below the root.
        let run = against(&relative, [Path::new("--root"), root]).expect(1);
        let found: Vec<_> =
            statuses(&run).iter().map(|(status, path)| (*status, path.canonicalize().unwrap())).collect();
        assert_eq!(found, all, "{run}");
        assert_eq!(run.json()["files"][2]["changes"], expected, "{run}");
        let run = against(&relative, [Path::new("--root"), root, &there[1]]).expect(0);
        assert_eq!(statuses(&run), [(0, there[1].clone())]);

        // Copies have other inodes: the path below the root is all that is left, however the root is written.
        sh(format!("cd '{}'; for f in top dir/below; do cp --reflink=never $f new; mv new $f; done", root.display()));
        let (parent, name) = (root.parent().unwrap(), root.file_name().unwrap().to_str().unwrap());
        for (root, file) in
            [(name.to_owned(), "top"), (format!("./{name}"), "top"), (format!("{name}//"), "./dir/below")]
        {
            let file = format!("{name}/{file}");
            let args = ["verify", "--json", "--root", &root, &file, "--against"];
            let run = Daxfile::new(args).arg(&relative).dir(parent).run().expect(1);
            assert_eq!(statuses(&run), [(1, file.into())], "{run}");
            assert_eq!(run.json()["files"][0]["error"], Value::Null, "{run}");
        }
    }
}

#[test]
fn a_renamed_file_is_known_by_inode_and_generation() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let [a, b, c] = ["a", "b", "c"].map(|name| scratch.path(name));
        [&a, &b].into_iter().for_each(make);
        let manifest = manifest(&scratch, Path::new("/"), [&a, &b]);
        fs::rename(&a, &c).unwrap();
        // Named, it is the file of that entry, which is not missing then.
        let run = against(&manifest, [&c, &b]).expect(0);
        assert_eq!(statuses(&run), [(0, c.clone()), (0, b.clone())], "{run}");
        // Otherwise only the name can be tried.
        assert_eq!(statuses(&against(&manifest, [""; 0]).expect(1)), [(1, a.clone()), (0, b.clone())]);

        // Two files that exchanged names are each unchanged, in spite of the other's entry for their names.
        fs::rename(&b, &a).unwrap();
        fs::rename(&c, &b).unwrap();
        assert_eq!(statuses(&against(&manifest, [&a, &b]).expect(0)), [(0, a), (0, b)]);
    }
}

#[test]
fn a_restored_copy_is_compared_by_path() {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let scratch = Scratch::new(kind);
        let file = scratch.path("file");
        make(&file);
        let manifest = manifest(&scratch, Path::new("/"), [&file]);
        let was = filefrag(&file);
        sh(format!("cd '{}'; cp --reflink=never file new; sync new; mv new file", scratch.mount_point().display()));
        let expected = changes(&was, &filefrag(&file), 4096);
        assert_ne!(expected, json!([]));
        for args in [vec![&file], vec![]] {
            let run = against(&manifest, args).expect(1);
            assert_eq!(run.json()["files"][0]["changes"], expected, "{run}");
        }
    }
}

#[test]
fn a_name_that_is_not_utf_8_comes_back() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path(OsStr::from_bytes(b"caf\xe9\n\x1b[31m"));
    fs::write(&file, vec![1; 8192]).unwrap();
    let manifest = manifest(&scratch, Path::new("/"), [&file]);
    let run = against(&manifest, [""; 0]).expect(0);
    assert!(run.json()["files"][0]["path"]["bytes"].is_string(), "{run}");
    fs::remove_file(&file).unwrap();
    let run = Daxfile::new(["verify", "--against"]).arg(&manifest).run().expect(1);
    assert!(run.text().contains(r"caf\351\n\033[31m"), "{run}");
}

#[test]
fn usage() {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    make(&file);
    let manifest = manifest(&scratch, Path::new("/"), [&file]);
    let (manifest, file) = (manifest.to_str().unwrap(), file.to_str().unwrap());
    for args in [
        &["verify", "--root", "/", file][..],
        &["verify", "--against", manifest, "--strict", file],
        &["verify", "--against"],
        &["verify", "--against", "/nonexistent", file],
        &["verify", "--against", "/", file],
        &["verify", "--against", manifest, "--files-from", "/dev/null"],
    ] {
        let run = Daxfile::new(args).run().expect(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run}");
    }
    // A manifest may come through a pipe.
    let script = format!("\"$0\" stat --json --extents '{file}' | \"$0\" verify --against /dev/stdin '{file}'");
    let run = Daxfile::new([""; 0]).wrap(["bash", "-c", &script]).run().expect(0);
    assert!(run.text().contains("unchanged"), "{run}");
}

/// A refusal: exit 2, nothing on stdout, and one line that a terminal survives.
fn refused(manifest: &Path, what: &str, args: &[&OsStr]) -> Run {
    let run = Daxfile::new(["verify", "--against"]).arg(manifest);
    let run = args.iter().fold(run, Daxfile::arg).run();
    let name = manifest.display().to_string();
    let said = run.stderr.strip_suffix('\n').unwrap_or_default();
    let clear =
        said.starts_with(&format!("daxfile verify: {name}: ")) && said.len() < 1000 && !said.contains(char::is_control);
    assert!(run.status == 2 && run.stdout.is_empty() && clear, "{what}: {run}");
    run
}

#[test]
fn hostile_manifests_are_refused() {
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    make(&file);
    let path = manifest(&scratch, Path::new("/"), [&file]);
    let good = fs::read(&path).unwrap();
    let refuse = |what: &str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        refused(&path, what, &[]);
        refused(&path, what, &[file.as_os_str()])
    };

    let end = good.iter().rposition(|byte| *byte == b'}').unwrap();
    for length in (0..=end).step_by(1 + end / 60).chain([end]) {
        refuse(&format!("cut to {length} bytes"), &good[..length]);
    }
    refuse("something after it", &[&good[..], b"x"].concat());
    refuse("no UTF-8", &[&good[..40], b"\xff\xfe", &good[40..]].concat());

    let good: Value = serde_json::from_slice(&good).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer} in {good}")) = value;
        bad
    };
    let oddities = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!("\u{1b}]0;pwned\u{7}"),
        json!("7"),
        json!([]),
        json!([1]),
        json!({}),
        json!({"a": {"b": [null]}}),
    ];
    let number = ["inode", "generation", "size"].map(|name| format!("/files/0/file/{name}"));
    let extent = ["logical", "physical", "length", "raw_flags"].map(|name| format!("/files/0/extents/1/{name}"));
    let others = ["/schema_version", "/files", "/files/0", "/files/0/path", "/files/0/file", "/files/0/extents"];
    for pointer in number.iter().chain(&extent).map(String::as_str).chain(others).chain(["/files/0/extents/0"]) {
        for oddity in &oddities {
            let well_formed = match pointer {
                "/files/0/path" => oddity.is_string(),
                // An empty list is a manifest without files, an empty list of extents is a map without any.
                "/files/0/file" => oddity.is_null(),
                "/files/0/extents" => oddity.is_null() || *oddity == json!([]),
                _ => false,
            };
            if !well_formed {
                refuse(&format!("{pointer} is {oddity}"), with(pointer, oddity.clone()).to_string().as_bytes());
            }
        }
    }

    let maximum = u64::MAX;
    for (pointer, number) in [
        ("/schema_version", 2),
        ("/schema_version", 0),
        ("/schema_version", maximum),
        ("/files/0/file/generation", 1 << 32),
        ("/files/0/extents/1/raw_flags", 1 << 32),
        ("/files/0/extents/1/length", 0),
        ("/files/0/extents/1/length", maximum),
        ("/files/0/extents/1/logical", maximum),
        ("/files/0/extents/1/physical", maximum),
        // Overlaps: by one byte, wholly, and of a run with itself
        ("/files/0/extents/0/length", 128 * K + 1),
        ("/files/0/extents/0/length", 1 << 40),
        ("/files/0/extents/1/logical", 64 * K - 1),
        ("/files/0/extents/1/logical", 0),
    ] {
        refuse(&format!("{pointer} is {number}"), with(pointer, json!(number)).to_string().as_bytes());
    }
    let text = good.to_string();
    for huge in ["18446744073709551616", "1e400", &"9".repeat(100_000), &format!("0.{}", "3".repeat(100_000))] {
        let inode = format!("\"inode\":{}", good.pointer("/files/0/file/inode").unwrap());
        assert!(text.contains(&inode));
        refuse("a huge number", text.replace(&inode, &format!("\"inode\":{huge}")).as_bytes());
    }

    // A newer format may look otherwise in every part, and is still to be called by its name.
    for newer in [
        with("/schema_version", json!(2)),
        json!({"schema_version": 2, "files": {"a": 1}}),
        json!({"schema_version": 2}),
    ] {
        let run = refuse("a newer format", newer.to_string().as_bytes());
        assert!(run.stderr.contains("schema_version 2"), "{run}");
    }
}

#[test]
fn large_invalid_manifests_are_refused() {
    const SIZE: usize = 10 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest");
    let noise = Random::new("large_nonsense").bytes(SIZE);
    let nested = |open: &str, close: &str, depth: usize| {
        format!("{{\"schema_version\": 1, \"files\": [{{\"path\": {}{}", open.repeat(depth), close.repeat(depth))
    };
    let cases: [(&str, Vec<u8>); 9] = [
        ("noise", noise),
        ("zeros", vec![0; SIZE]),
        ("blanks", vec![b' '; SIZE]),
        ("open brackets", vec![b'['; SIZE]),
        ("open objects", b"{\"a\":".repeat(SIZE / 5)),
        ("a nested path", nested("[", "]", SIZE / 2).into()),
        ("a nested object for a path", nested("{\"bytes\":", "}", SIZE / 10).into()),
        (
            "a long string for a list",
            [b"{\"schema_version\": 1, \"files\": \"", &b"a".repeat(SIZE)[..], b"\"}"].concat(),
        ),
        ("an endless string", [b"{\"schema_version\": 1, \"files\": \"", &b"a".repeat(SIZE)[..]].concat()),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        refused(&path, what, &[]);
    }

    // Well-formed, and of any length: counts that promise more than there is, and an endless list.
    let many = vec![json!({"logical": 0, "physical": 0, "length": 4096, "raw_flags": 0}); 100_000];
    let text = json!({"schema_version": 1, "files": [{"path": "x", "extents": many}]}).to_string();
    fs::write(&path, text).unwrap();
    refused(&path, "a hundred thousand extents at one place", &[]);
    let entry = json!({"path": "/nonexistent", "file": null, "map": {"extents": u64::MAX}, "extents": []});
    let text = json!({"schema_version": 1, "files": vec![entry; 20_000], "exit_status": 0}).to_string();
    fs::write(&path, text).unwrap();
    let run = against(&path, [""; 0]).expect(1);
    assert_eq!(statuses(&run).len(), 20_000);
}

/// The author of a manifest cannot make verify examine files outside the root.
#[test]
fn hostile_paths_stay_below_the_root() {
    let scratch = Scratch::new(Kind::ext4());
    let root = scratch.path("root");
    fs::create_dir(&root).unwrap();
    make(scratch.path("outside"));
    make(root.join("inside"));
    let path = manifest(&scratch, &root, ["inside"]);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let with_path = |name: Value| {
        let mut manifest = good.clone();
        manifest["files"][0]["path"] = name;
        fs::write(&path, manifest.to_string()).unwrap();
        against(&path, [Path::new("--root"), &root])
    };
    assert_eq!(statuses(&with_path(json!("inside")).expect(0)), [(0, root.join("inside"))]);
    // An absolute path is meant below the root, too.
    assert_eq!(statuses(&with_path(json!("/inside")).expect(0)), [(0, root.join("inside"))]);
    let outside = scratch.path("outside").to_str().unwrap().to_owned();
    assert_eq!(statuses(&with_path(json!(outside)).expect(1)), [(1, root.join(&outside[1..]))]);

    for climbing in ["../outside", "a/../../outside", "/../outside", "./../outside", "inside/..", ".."] {
        let run = with_path(json!(climbing)).expect(2);
        assert!(run.stderr.contains("'..'"), "{run}");
        assert_eq!(run.json()["files"][0]["map"], Value::Null, "{run}");
    }
    let climbing = json!({"bytes": "Li4vb3V0c2lkZQ=="});
    assert!(with_path(climbing).expect(2).stderr.contains("'..'"));
    // The root itself, and names that no file can have
    for name in ["", "/", ".", "a\u{0}b"] {
        with_path(json!(name)).expect(2);
    }
    with_path(json!("a".repeat(300))).expect(2);

    // An error that quotes a manifest cannot control the terminal.
    let mut manifest = good.clone();
    manifest["files"][0]["path"] = json!("\u{1b}]0;pwned\u{7}");
    manifest["files"][0]["extents"][0]["length"] = json!(0);
    fs::write(&path, manifest.to_string()).unwrap();
    refused(&path, "a path that steers the terminal", &[]);
}

/// With a few changed bytes, verify still gives an answer.
#[test]
fn damaged_manifests_never_panic() {
    let mut random = Random::new("damaged_manifests");
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    make(&file);
    let path = manifest(&scratch, Path::new("/"), [&file]);
    let good = fs::read(&path).unwrap();
    for _ in 0..300 {
        let mut bad = good.clone();
        for _ in 0..=random.below(3) {
            let at = usize::try_from(random.below(bad.len() as u64)).unwrap();
            bad[at] = match random.below(3) {
                0 => u8::try_from(random.below(256)).unwrap(),
                1 => b"0123456789-.e"[usize::try_from(random.below(13)).unwrap()],
                _ => b"{}[]\",:\\ntf"[usize::try_from(random.below(11)).unwrap()],
            };
        }
        fs::write(&path, &bad).unwrap();
        let run = against(&path, [&file]);
        let bad = String::from_utf8_lossy(&bad);
        assert!((0..=2).contains(&run.status) && !run.stderr.contains("panicked"), "{bad}: {run}");
    }
}

/// A snapshot has the inode numbers, the generations and the UUID of its origin.
#[test]
fn a_snapshots_file_is_compared_with_its_own_entry() {
    let scratch = Scratch::new(Kind::Btrfs);
    let dir = scratch.mount_point();
    sh(format!(
        "cd '{}'; btrfs -q subvolume create first; xfs_io -f -c 'pwrite -q 0 64k' -c fsync first/file
         btrfs -q subvolume snapshot first second; xfs_io -c 'pwrite -q 0 64k' -c fsync second/file",
        dir.display()
    ));
    let manifest = manifest(&scratch, dir, ["first/file", "second/file"]);
    for name in ["first/file", "second/file"] {
        let run = Daxfile::new(["verify", "--json", "--against"]).arg(&manifest).arg(name).dir(dir).run().expect(0);
        assert_eq!(statuses(&run), [(0, name.into())]);
    }
}

/// The copy of a filesystem has its inode numbers and generations; by UUID and path, its files are others.
#[test]
fn a_copied_filesystem_is_told_apart_by_its_uuid() {
    let mut first = Scratch::new(Kind::ext4());
    make(first.path("file"));
    make(first.path("moved"));
    let second = first.twin(|image| drop(sh(format!("tune2fs -f -U random '{}' 2>&1", image.display()))), "");
    sh(format!("cd '{}'; cp moved new; rm moved; sync", second.mount_point().display()));
    let files = [first.path("file"), second.path("file")];
    let both = manifest(&first, Path::new("/"), &files);
    for file in &files {
        assert_eq!(statuses(&against(&both, [file]).expect(0)), [(0, file.clone())]);
    }
    // The manifest has neither the file's name nor its filesystem.
    let only = manifest(&first, Path::new("/"), [first.path("moved")]);
    let run = against(&only, [second.path("file")]).expect(2);
    assert!(run.stderr.contains("no entry"), "{run}");
}

#[test]
fn dotdot_in_a_path_is_refused_only_with_root_option() {
    let scratch = Scratch::new(Kind::xfs());
    make(scratch.path("file"));
    let dir = scratch.path("dir");
    fs::create_dir(&dir).unwrap();
    let manifest = manifest(&scratch, &dir, ["../file"]);
    let verify =
        |args: &[&str]| Daxfile::new(["verify", "--json", "--against"]).arg(&manifest).args(args).dir(&dir).run();
    assert_eq!(statuses(&verify(&[]).expect(0)), [(0, "../file".into())]);
    assert_eq!(statuses(&verify(&["../file"]).expect(0)), [(0, "../file".into())]);
    assert!(verify(&["--root", "."]).expect(2).stderr.contains("'..'"));
}

/// Without the directory no file can be looked for, and none is called gone.
#[test]
fn a_missing_root_is_an_error() {
    let scratch = Scratch::new(Kind::ext4());
    let dir = scratch.mount_point();
    make(scratch.path("a"));
    make(scratch.path("b"));
    let manifest = manifest(&scratch, dir, ["a", "b"]);
    for (root, says) in [("none", "No such file or directory"), ("a", "Not a directory")] {
        let root = scratch.path(root);
        let run = against(&manifest, [Path::new("--root"), &root]).expect(2);
        assert_eq!(statuses(&run), [(2, root.clone())], "{run}");
        assert!(run.stderr.contains(says), "{run}");
    }
}

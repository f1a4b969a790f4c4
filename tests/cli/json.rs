//! The output of `--json` always matches man/daxfile.schema.json.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use daxfile::file::blockers::Kind as Blocker;
use daxfile::file::target::Target;
use daxfile::needs::{Allow, Hold};
use daxfile::pin::drift::Place;
use daxfile::pin::record::{self, Stored};
use daxfile::pin::state::State;
use daxfile::report::Action;
use daxfile::system::devices::LayerKind;
use daxfile::system::filesystem::AddressSpace;
use daxfile_tests::tools::{require, sh};
use daxfile_tests::{Daxfile, Kind, Run, Scratch, Xfs};
use jsonschema::Validator;
use libdaxfile::fiemap::ExtentFlags;
use libdaxfile::fsxattr::Xflags;
use serde_json::{Value, json};
use strum::VariantArray;

const SCHEMA: &str = include_str!("../../man/daxfile.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

fn validator() -> Validator {
    jsonschema::options().should_validate_formats(true).build(&schema()).expect("a valid schema")
}

/// Runs commands, checks their output against the schema, and remembers the names that occurred.
struct Checker {
    validator: Validator,
    seen: Mutex<BTreeSet<(&'static str, String)>>,
}

impl Checker {
    fn run<I, S>(&self, status: i32, args: I) -> Value
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.check(&Daxfile::new(args).arg("--json").run().expect(status))
    }

    fn check(&self, run: &Run) -> Value {
        let report = run.json();
        let errors: Vec<String> = self
            .validator
            .iter_errors(&report)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}\n{run}", errors.join("\n"));
        assert!(run.text().ends_with("}\n"), "{run}");
        all_integers(&report);

        let files = report["files"].as_array().unwrap();
        let worst = files.iter().map(|file| file["exit_status"].as_i64().unwrap()).max().unwrap_or(0);
        let said = report["exit_status"].as_i64().unwrap();
        assert_eq!((said, i64::from(run.status)), (worst, worst), "{run}");
        for file in files {
            totals_add_up(file, run);
            self.remember(file);
        }
        report
    }

    fn remember(&self, file: &Value) {
        let mut seen = self.seen.lock().unwrap();
        let mut see = |what, value: &Value| {
            if let Some(name) = value.as_str() {
                seen.insert((what, name.to_owned()));
            }
        };
        see("action", &file["action"]);
        see("state", &file["pin"]["state"]);
        see("hold", &file["pin"]["hold"]);
        for blocker in file["blockers"].as_array().into_iter().flatten() {
            see("blocker", &blocker["kind"]);
        }
        for change in file["changes"].as_array().into_iter().flatten() {
            see("place", &change["was"]["state"]);
            see("place", &change["now"]["state"]);
        }
    }
}

/// A program may read numbers in its own way: none has a fraction or an exponent.
fn all_integers(value: &Value) {
    match value {
        Value::Number(number) => assert!(number.is_u64() || number.is_i64(), "{number}"),
        Value::Array(values) => values.iter().for_each(all_integers),
        Value::Object(members) => members.values().for_each(all_integers),
        _ => {}
    }
}

/// Rules that the schema cannot express.
fn totals_add_up(file: &Value, run: &Run) {
    for blocker in file["blockers"].as_array().into_iter().flatten() {
        let ranges = blocker["ranges"].as_array().unwrap();
        let bytes: u64 = ranges.iter().map(|range| range["length"].as_u64().unwrap()).sum();
        assert_eq!(blocker["bytes"].as_u64(), Some(bytes), "{run}");
    }
    if let Some(facts) = file.get("file") {
        let number = |name: &str| file["map"][name].as_u64().unwrap();
        let sum: u64 = ["written", "unwritten", "shared", "unknown", "hole"].map(number).into_iter().sum();
        let size = facts["size"].as_u64().unwrap();
        // Inline contents have no block, and so no rest of one.
        let inline = file["blockers"].as_array().into_iter().flatten().any(|blocker| blocker["kind"] == "inline");
        let end = if inline { size } else { size.next_multiple_of(facts["block_size"].as_u64().unwrap()) };
        assert_eq!(sum, end, "{run}");
        if let Some(extents) = file.get("extents") {
            assert_eq!(number("extents"), extents.as_array().unwrap().len() as u64, "{run}");
        }
    }
}

fn shell(scratch: &Scratch, script: &str) {
    sh(format!("cd '{}'\n{script}", scratch.mount_point().display()));
}

fn with<'a>(args: &'a [&'a str], files: &[&'a Path]) -> Vec<&'a OsStr> {
    args.iter().map(OsStr::new).chain(files.iter().map(|file| file.as_os_str())).collect()
}

#[test]
fn every_report_matches_the_schema() {
    let checker = Checker { validator: validator(), seen: Mutex::default() };
    let situations: [fn(&Checker); 9] = [
        the_life_of_a_pin,
        preparation,
        drift_of_runs_and_digests,
        blockers,
        strange_records,
        not_held,
        errors,
        against_manifests,
        other_filesystems,
    ];
    std::thread::scope(|scope| situations.iter().for_each(|situation| drop(scope.spawn(|| situation(&checker)))));

    // A name that never came up is a name that was not tested.
    let seen = checker.seen.into_inner().unwrap();
    let schema = schema();
    for (what, pointer) in [
        ("action", "/$defs/action/enum"),
        ("state", "/$defs/pin/properties/state/enum"),
        ("hold", "/$defs/pin/properties/hold/enum"),
        ("place", "/$defs/place/properties/state/enum"),
    ] {
        for name in schema.pointer(pointer).unwrap().as_array().unwrap().iter().filter_map(Value::as_str) {
            assert!(seen.contains(&(what, name.to_owned())), "no {what} was {name:?}");
        }
    }
    for name in [
        "hole",
        "unwritten",
        "shared",
        "inline",
        "encoded",
        "merged",
        "too_many_extents",
        "misaligned",
        "staging",
        "past_eof",
        "empty",
        "immutable",
        "append_only",
        "dax_unavailable",
        "unsupported_filesystem",
    ] {
        assert!(seen.contains(&("blocker", name.to_owned())), "no blocker was {name:?}");
    }
}

fn the_life_of_a_pin(checker: &Checker) {
    for kind in [Kind::xfs(), Kind::ext4()] {
        let on_xfs = kind == Kind::xfs();
        let scratch = Scratch::new(kind);
        let path = scratch.path("file");
        let file = path.as_path();
        checker.run(0, with(&["alloc", "-s", "1M", "--dry-run"], &[file]));
        checker.run(0, with(&["alloc", "-s", "1M"], &[file]));
        let report = checker.run(0, with(&["check"], &[file]));
        assert_eq!(report["files"][0]["blockers"], json!([]));
        checker.run(3, with(&["check", "--dax"], &[file]));
        checker.run(1, with(&["verify"], &[file]));
        checker.run(0, with(&["unpin"], &[file]));
        checker.run(0, with(&["pin", "--dry-run"], &[file]));
        let report = checker.run(0, with(&["pin"], &[file]));
        assert_eq!(report["files"][0]["pin"]["state"], "pinned");
        assert!(report["files"][0]["pin"]["pinned_at"].is_string());
        checker.run(0, with(&["pin"], &[file]));
        checker.run(1, with(&["pin", "--allow", "hole"], &[file]));
        checker.run(1, with(&["check", "--max-extents", "1000"], &[file]));
        checker.run(0, with(&["stat", "--extents"], &[file]));
        checker.run(0, with(&["verify"], &[file]));
        checker.run(0, with(&["map", "--format", "dmsetup"], &[file]));
        checker.run(0, with(&["map", "--format", "resume"], &[file]));
        for offset in [0, 1] {
            let compare = Daxfile::new(with(&["map", "--json", "--format", "resume", "--compare"], &[file]));
            checker.check(&compare.resuming_from("quiet", "0:0", offset).run().expect(1));
        }
        checker.run(0, with(&["probe", "--hold", "frozen"], &[file]));
        if on_xfs {
            shell(&scratch, "cp --reflink=always file copy");
            let report = checker.run(0, with(&["verify"], &[file]));
            assert_eq!(report["files"][0]["pin"]["shared_since"], 1 << 20);
            checker.run(1, with(&["verify", "--strict"], &[file]));
        }

        // Another process opened the file while the flag was off
        shell(&scratch, "chattr -i file");
        checker.run(1, with(&["verify"], &[file]));
        let writer = File::options().write(true).open(file).unwrap();
        shell(&scratch, "chattr +i file");
        let report = checker.run(1, with(&["verify"], &[file]));
        assert_eq!(report["files"][0]["pin"]["state"], "writer_inside");
        drop(writer);

        shell(&scratch, "chattr -i file; truncate -s 600001 file; chattr +i file");
        for verb in ["verify", "stat"] {
            let report = checker.run(i32::from(verb == "verify"), with(&[verb], &[file]));
            let pin = &report["files"][0]["pin"];
            assert_eq!((&pin["state"], &pin["size_was"]), (&json!("drifted"), &json!(1 << 20)));
            assert!(pin["mtime_was"].is_string(), "{pin}");
        }
        checker.run(1, with(&["pin"], &[file]));
        checker.run(0, with(&["unpin", "--dry-run"], &[file]));
        checker.run(0, with(&["unpin"], &[file]));
    }
}

fn preparation(checker: &Checker) {
    let scratch = Scratch::new(Xfs { rmapbt: true, ..Xfs::default() });
    let path = scratch.path("file");
    let file = path.as_path();
    shell(
        &scratch,
        "head -c 1M /dev/urandom > file; cp --reflink=always file copy; truncate -s 2M file; sync file copy",
    );
    let report = checker.run(1, with(&["check"], &[file]));
    let shared = report["files"][0]["blockers"].as_array().unwrap().iter().find(|blocker| blocker["kind"] == "shared");
    assert!(shared.unwrap()["sharers"].is_array(), "{report}");
    checker.run(0, with(&["prepare", "--dry-run"], &[file]));
    let report = checker.run(0, with(&["prepare"], &[file]));
    assert_eq!(report["files"][0]["work"]["allocate"], 2 << 20, "{report}");
    assert_eq!(report["files"][0]["map"]["staging"]["state"], "none", "{report}");
    checker.run(0, with(&["prepare"], &[file]));
    shell(&scratch, "xfs_io -f -c 'reflink file 0 0 4096' one; xfs_io -c 'pwrite -q 0 4096' file; rm one; sync");
    let report = checker.run(1, with(&["check"], &[file]));
    assert_eq!(report["files"][0]["map"]["staging"]["state"], "found", "{report}");
}

fn drift_of_runs_and_digests(checker: &Checker) {
    let scratch = Scratch::new(Kind::xfs());
    for (name, extents) in [("few", 3), ("many", 300)] {
        let path = scratch.path(name);
        let file = path.as_path();
        shell(
            &scratch,
            &format!(
                "for ((i = 0; i < {extents}; i++)); do
                     echo \"pwrite -q $((i * 8))k 4k\"; echo \"falloc $((i * 8 + 3000))k 4k\"
                 done | xfs_io -f {name} >/dev/null"
            ),
        );
        checker.run(0, with(&["pin", "--hold", "none", "--allow", "hole,unwritten,shared,empty"], &[file]));
        checker.run(0, with(&["verify"], &[file]));
        shell(&scratch, &format!("xfs_io -c 'fpunch 0 4k' -c 'pwrite -q 4k 4k' -c 'pwrite -q 3000k 4k' {name}"));
        let report = checker.run(1, with(&["verify"], &[file]));
        assert_ne!(report["files"][0]["changes"], json!([]));
        checker.run(1, with(&["check", "--hold", "none", "--allow", "hole,unwritten,shared,empty"], &[file]));
        checker.run(0, with(&["stat", "--extents"], &[file]));
        checker.run(0, with(&["unpin"], &[file]));
    }
}

fn blockers(checker: &Checker) {
    let scratch = Scratch::new(Kind::xfs());
    shell(
        &scratch,
        "xfs_io -f -c 'pwrite -q 0 64k' -c 'falloc 128k 64k' -c 'falloc -k 1m 64k' bad
         cp --reflink=always bad shared
         touch empty
         xfs_io -f -c 'pwrite -q 0 64k' immutable; cp immutable append; chattr +i immutable; chattr +a append",
    );
    for name in ["bad", "shared", "empty", "immutable", "append"] {
        let file = &[scratch.path(name)];
        let file = &[file[0].as_path()];
        let needs = ["--align", "1M", "--max-extents", "1"];
        for verb in ["check", "pin"] {
            let report = checker.run(1, with(&[&[verb], &needs[..]].concat(), file));
            assert_ne!(report["files"][0]["blockers"], json!([]), "{name}");
        }
        checker.run(1, with(&["pin", "--dry-run"], file));
        checker.run(0, with(&["stat", "--extents"], file));
    }
    shell(&scratch, "chattr -i immutable; chattr -a append");
    // No allocation group is as large as that.
    let report = checker.run(1, with(&["alloc", "-s", "150M", "--max-extents", "1"], &[&scratch.path("new")]));
    assert_eq!(report["files"][0]["blockers"][0]["kind"], "too_many_extents");
}

fn strange_records(checker: &Checker) {
    require(&["setfattr"]);
    let scratch = Scratch::new(Kind::ext4());
    let [own, foreign, bad, newer] = ["own", "foreign", "bad", "newer"].map(|name| scratch.path(name));
    shell(&scratch, "xfs_io -f -c 'pwrite -q 0 64k' own; cp own bad; cp own newer; sync *");
    checker.run(0, with(&["pin", "--hold", "none"], &[&own]));
    shell(
        &scratch,
        "cp --preserve=xattr own foreign; sync foreign
         setfattr -n user.daxfile.pin -v nonsense bad
         setfattr -n user.daxfile.pin -v 0x64617866696c6509 newer",
    );
    for (file, verify) in [(&foreign, 1), (&bad, 2), (&newer, 2)] {
        checker.run(verify, with(&["verify"], &[file]));
        checker.run(0, with(&["stat"], &[file]));
    }
    for (file, status) in [(&foreign, 0), (&bad, 0), (&newer, 2)] {
        checker.run(status, with(&["check"], &[file]));
        checker.run(status, with(&["pin", "--dry-run"], &[file]));
        checker.run(status, with(&["unpin", "--dry-run"], &[file]));
        checker.run(status, with(&["unpin"], &[file]));
    }
}

/// A machine that was started without the guard has such files.
fn not_held(checker: &Checker) {
    let scratch = Scratch::new(Kind::ext4());
    let file = scratch.path("file");
    shell(&scratch, "xfs_io -f -c 'pwrite -q 0 64k' file; sync file");
    checker.run(0, with(&["pin"], &[&file]));
    let Stored::Own(mut record) = record::load(&Target::open(&file).unwrap(), false).unwrap() else {
        panic!("no record")
    };
    (record.needs.hold, record.added) = (Hold::Writable, Default::default());
    let hex: String = record.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    shell(&scratch, &format!("chattr -i file; setfattr -n security.daxfile.pin -v 0x{hex} file"));
    assert_eq!(checker.run(0, with(&["stat"], &[&file]))["files"][0]["pin"]["state"], "not_held");
    checker.run(1, with(&["verify"], &[&file]));
    // Whether it can be held so depends on the kernel.
    let check = Daxfile::new(["check", "--hold", "writable", "--json"]).arg(&file).run();
    assert!(matches!(check.status, 0 | 3 | 4), "{check}");
    checker.check(&check);
    checker.run(0, with(&["unpin"], &[&file]));
}

fn errors(checker: &Checker) {
    let scratch = Scratch::new(Kind::ext4());
    shell(
        &scratch,
        "xfs_io -f -c 'pwrite -q 0 64k' good; mkdir dir; mkfifo fifo; ln -s good link; cp good secret; chmod 600 secret
         sync good; touch closed; chown 65534 good",
    );
    let names = ["good", "missing", "dir", "fifo", "link"].map(|name| scratch.path(name));
    let files: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
    // In the order of the command line, the good one in spite of the others
    for args in [&["check"][..], &["stat"], &["verify"], &["pin", "--dry-run"], &["unpin", "--dry-run"]] {
        let report = checker.run(2, with(args, &files));
        let reports = report["files"].as_array().unwrap();
        let paths: Vec<&str> = reports.iter().map(|file| file["path"].as_str().unwrap()).collect();
        assert_eq!(paths, files.iter().map(|file| file.to_str().unwrap()).collect::<Vec<_>>());
        assert_eq!(reports[0]["error"], Value::Null, "{report}");
        assert!(reports[2..].iter().all(|file| file["error"]["message"].is_string()), "{report}");
        if args == ["verify"] {
            assert_eq!((&reports[1]["gone"], &reports[1]["exit_status"]), (&json!(true), &json!(1)), "{report}");
            continue;
        }
        let missing = &reports[1]["error"];
        assert_eq!((&missing["call"], &missing["errno"]), (&json!("open"), &json!(2)));
    }

    let odd = scratch.path(OsStr::from_bytes(b"odd \xff\xfe\n\x1b"));
    for status in [2, 0] {
        let report = checker.run(status, with(&["stat", "--extents"], &[&odd]));
        let mut bytes = scratch.mount_point().as_os_str().as_bytes().to_vec();
        bytes.extend(b"/odd \xff\xfe\n\x1b");
        let text = report["files"][0]["path"]["bytes"].as_str().unwrap();
        let decoded = sh(format!("printf %s '{text}' | base64 -d | od -An -v -tx1 | tr -d ' \\n'"));
        assert_eq!(decoded, bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        fs::write(&odd, "contents").unwrap();
    }

    let list = [scratch.path("good"), scratch.path("missing"), odd].map(PathBuf::into_os_string).join(OsStr::new("\0"));
    let run = Daxfile::new(["stat", "--json", "--files-from", "-", "-0"]).stdin(list.as_bytes()).run().expect(2);
    assert_eq!(checker.check(&run)["files"].as_array().unwrap().len(), 3);

    for args in [["stat", "secret"], ["pin", "good"], ["alloc", "new"]] {
        let args = [args[0], scratch.path(args[1]).to_str().unwrap(), "--json"].map(OsString::from);
        let size = if args[0] == "alloc" { &["-s", "4k"][..] } else { &[] };
        let run = size.iter().fold(Daxfile::new(args), Daxfile::arg).as_nobody().run().expect(4);
        checker.check(&run);
    }
    checker.run(2, with(&["alloc", "-s", "4k"], &[&scratch.path("good")]));
    checker.run(2, with(&["alloc", "-s", "100G"], &[&scratch.path("new")]));
    checker.run(2, with(&["alloc", "-s", "4k"], &[&scratch.path("missing/new")]));

    let writer = File::options().write(true).open(scratch.path("good")).unwrap();
    checker.run(5, with(&["pin"], &[&scratch.path("good")]));
    drop(writer);
}

fn against_manifests(checker: &Checker) {
    let scratch = Scratch::new(Kind::xfs());
    shell(&scratch, "for f in same moved gone; do xfs_io -f -c 'pwrite -q 0 64k' -c fsync $f; done");
    let [same, moved, gone, strange] = ["same", "moved", "gone", "strange"].map(|name| scratch.path(name));
    let manifest = scratch.image().with_file_name("manifest.json");
    let run = Daxfile::new(["stat", "--json", "--extents"]).arg(&same).arg(&moved).arg(&gone).run().expect(0);
    checker.check(&run);
    fs::write(&manifest, &run.stdout).unwrap();
    let verify = with(&["verify", "--against"], &[&manifest]);
    let verify = |status, files: &[&Path]| {
        checker.run(status, verify.iter().copied().chain(files.iter().map(|f| f.as_os_str())))
    };
    verify(0, &[]);
    shell(&scratch, "rm gone; xfs_io -c 'fpunch 4k 4k' -c 'falloc 4k 4k' -c 'falloc 64k 4k' moved; cp same strange");
    verify(1, &[]);
    verify(1, &[&gone]);
    verify(2, &[&same, &strange]);
    let report = verify(2, &[&moved, &scratch.path("missing")]);
    assert_eq!(report["files"].as_array().unwrap().len(), 3, "{report}");
}

fn other_filesystems(checker: &Checker) {
    let memory = tempfile::NamedTempFile::new_in("/dev/shm").expect("/dev/shm is mounted");
    fs::write(memory.path(), "contents").unwrap();
    for args in [&["check"][..], &["pin"], &["stat"], &["verify"]] {
        checker.run(3, with(args, &[memory.path()]));
    }
    checker.run(3, ["alloc", "-s", "4k", "/dev/shm/daxfile-tests-new"]);

    let inline = Scratch::new(Kind::ext4_with(&["inline_data"]));
    let merged = Scratch::new(Kind::ext4());
    let btrfs = Scratch::new(Kind::Btrfs);
    shell(&inline, "echo contents > file; sync file");
    shell(&merged, "xfs_io -f -c 'pwrite -q 0 40k' -c fsync file; chattr -e file");
    shell(&btrfs, "touch file; btrfs property set file compression zstd; xfs_io -c 'pwrite -q 0 256k' -c fsync file");
    for (scratch, status) in [(&inline, 1), (&merged, 1), (&btrfs, 3)] {
        let path = scratch.path("file");
        checker.run(0, with(&["stat", "--extents"], &[&path]));
        checker.run(status, with(&["check"], &[&path]));
    }

    // btrfs keeps times that RFC 3339 cannot write.
    for (seconds, time) in [
        ("-1", json!("1969-12-31T23:59:59Z")),
        ("-62167219200", json!("0000-01-01T00:00:00Z")),
        ("-62167219201", Value::Null),
        ("253402207200", json!("9999-12-30T22:00:00Z")),
        ("253402300800", Value::Null),
    ] {
        shell(&btrfs, &format!("touch -d '@{seconds}' file"));
        let report = checker.run(0, with(&["stat"], &[&btrfs.path("file")]));
        assert_eq!(report["files"][0]["file"]["mtime"], time, "{seconds}");
    }
}

#[test]
fn sample_of_the_page_matches_the_schema() {
    let page = include_str!("../../man/daxfile-json.5");
    let (_, sample) = page.split_once(".Ss Sample\n").expect("the sample");
    let (_, sample) = sample.split_once(".Bd -literal -offset indent\n").unwrap();
    let sample: Value = serde_json::from_str(sample.split_once(".Ed\n").unwrap().0).expect("JSON");
    let errors: Vec<_> = validator().iter_errors(&sample).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    // It has every member that such a report has, and no other.
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("disk.img");
    shell(&scratch, "xfs_io -f -c 'pwrite -q 0 64k' -c fsync disk.img");
    Daxfile::new(["pin", "--hold", "none", "--note", "why"]).arg(&file).run().expect(0);
    shell(&scratch, "xfs_io -c 'pwrite -q 64k 4k' -c fsync disk.img");
    let report = Daxfile::new(["verify", "--json"]).arg(&file).run().expect(1).json();
    let shape = |report: &Value| {
        let file = &report["files"][0];
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        [file, &file["file"], &file["map"], &file["pin"], &file["changes"][0]].map(keys)
    };
    assert_eq!(shape(&sample), shape(&report));
}

/// A schema that accepts everything proves nothing.
#[test]
fn schema_refuses_other_reports() {
    let schema = schema();
    jsonschema::draft202012::meta::validate(&schema).expect("a valid schema");
    let scratch = Scratch::new(Kind::xfs());
    let file = scratch.path("file");
    shell(&scratch, "xfs_io -f -c 'pwrite -q 0 64k' -c 'falloc 128k 4k' -c fsync file");
    let report = |args: &[&str], status| Daxfile::new(args).arg("--json").arg(&file).run().expect(status).json();
    let stat = report(&["stat", "--extents"], 0);
    Daxfile::new(["pin", "--hold", "none", "--allow", "hole,unwritten"]).arg(&file).run().expect(0);
    shell(&scratch, "xfs_io -c 'fpunch 0 4k' file; touch other");
    let drift = report(&["verify"], 1);
    let error = Daxfile::new(["stat", "--json", "/nonexistent"]).run().expect(2).json();

    let validator = validator();
    for good in [&stat, &drift, &error] {
        assert!(validator.is_valid(good), "{good}");
        // It may grow anywhere.
        let mut grown = good.clone();
        grow(&mut grown);
        assert_ne!(grown, *good);
        assert!(validator.is_valid(&grown), "{grown}");
    }
    for (good, pointer) in [
        (&stat, "/schema_version"),
        (&stat, "/exit_status"),
        (&stat, "/files/0/exit_status"),
        (&stat, "/files/0/path"),
        (&stat, "/files/0/error"),
        (&stat, "/files/0/file/inode"),
        (&stat, "/files/0/file/size"),
        (&stat, "/files/0/file/mtime"),
        (&stat, "/files/0/file/flags"),
        (&stat, "/files/0/file/raw_flags"),
        (&stat, "/files/0/file/dax"),
        (&stat, "/files/0/map/consistent"),
        (&stat, "/files/0/map/written"),
        (&stat, "/files/0/map"),
        (&stat, "/files/0/extents/0/logical"),
        (&stat, "/files/0/extents/0/flags"),
        (&stat, "/files/0/blockers/0/kind"),
        (&stat, "/files/0/blockers/0/ranges"),
        (&stat, "/files/0/blockers/0/bytes"),
        (&stat, "/files/0/pin/state"),
        (&drift, "/files/0/pin/hold"),
        (&drift, "/files/0/pin/pinned_at"),
        (&drift, "/files/0/changes/0/length"),
        (&drift, "/files/0/changes/0/was"),
        (&drift, "/files/0/changes/0/was/state"),
        (&drift, "/files/0/changes/0/was/physical"),
        (&error, "/files/0/error/message"),
        (&error, "/files/0/error/errno"),
        (&error, "/files/0/error/call"),
    ] {
        for bad in [json!("nonsense"), json!(-1), json!(1.5), json!({"state": "elsewhere"}), json!([7])] {
            let a_path = pointer.ends_with("/path") || pointer.ends_with("/message") || pointer.ends_with("/call");
            if a_path && bad.is_string() {
                continue;
            }
            let mut changed = good.clone();
            *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer} in {good}")) = bad;
            assert!(!validator.is_valid(&changed), "{pointer}: {changed}");
        }
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let mut without = good.clone();
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        assert!(!validator.is_valid(&without), "without {pointer}: {without}");
    }
    let mut contradiction = error.clone();
    contradiction["files"][0]["exit_status"] = json!(0);
    assert!(!validator.is_valid(&contradiction), "{contradiction}");
}

fn grow(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(grow),
        Value::Object(members) => {
            members.values_mut().for_each(grow);
            members.insert("of_a_later_version".into(), json!({"x": [1]}));
        }
        _ => {}
    }
}

/// The schema lists the names that the code has, in the same order, and no others.
#[test]
fn schema_lists_every_name_of_the_code() {
    let schema = schema();
    let in_schema = |pointer: &str| -> Vec<String> {
        let names = schema.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no {pointer}"));
        names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    fn in_code<T: serde::Serialize>(values: &[T]) -> Vec<String> {
        let name = |value| serde_json::to_value(value).unwrap();
        // Some have more members, and their names are in "state".
        let name = |value| name(value).get("state").cloned().unwrap_or_else(|| name(value));
        values.iter().map(|value| name(value).as_str().unwrap().to_owned()).collect()
    }
    let lower = |name: &str| name.to_lowercase();
    let unmerged = ExtentFlags::all() - ExtentFlags::LAST;
    for (pointer, names) in [
        ("/$defs/map/properties/address_space/enum", in_code(AddressSpace::VARIANTS)),
        ("/$defs/action/enum", in_code(Action::VARIANTS)),
        ("/$defs/blocker/properties/kind/enum", in_code(Blocker::VARIANTS)),
        ("/$defs/pin/properties/state/enum", in_code(State::VARIANTS)),
        ("/$defs/pin/properties/hold/enum", in_code(&Hold::ALL)),
        ("/$defs/pin/properties/allowed/items/enum", Allow::KINDS.map(|(_, name)| name.to_owned()).to_vec()),
        ("/$defs/inode_flags/items/enum", Xflags::all().iter_names().map(|(name, _)| lower(name)).collect()),
        ("/$defs/extent/properties/flags/items/enum", unmerged.iter_names().map(|(name, _)| lower(name)).collect()),
        ("/$defs/probe/properties/devices/items/properties/kind/enum", in_code(LayerKind::VARIANTS)),
        (
            "/$defs/place/properties/state/enum",
            in_code(&[Place::Hole, Place::Written { physical: 0 }, Place::Unwritten { physical: 0 }, Place::Digest]),
        ),
    ] {
        assert_eq!(in_schema(pointer), names, "{pointer}");
    }
}

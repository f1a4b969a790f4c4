//! The decoders of pin records and of manifests, by properties.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checks;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use checks::{decode, parse, sealed, written};
use daxfile::file::target::Identity;
use daxfile::needs::{Allow, Hold, Needs};
use daxfile::pin::manifest::Entry;
use daxfile::pin::record::{DecodeError, Note, Position, Record, RecordedMap};
use libdaxfile::fsxattr::Xflags;
use libdaxfile::statx::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// The offset of the number of runs in a record, and the offset of the first run.
const COUNT: usize = 92;
const RUNS: usize = 100;
const RUN: usize = 25;

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

/// Runs in order, none next to another on the device.
fn runs(most: usize) -> impl Strategy<Value = Vec<Position>> {
    let gap = prop_oneof![0..3u64, 0..1u64 << 50];
    let piece = (gap, 1..1u64 << 40, 0..1u64 << 62, any::<bool>());
    vec(piece, 0..=most).prop_map(|pieces| {
        let mut end = 0;
        let mut runs = Vec::with_capacity(pieces.len());
        for (gap, length, physical, unwritten) in pieces {
            let logical = end + gap;
            end = logical + length;
            runs.push(Position { logical, physical, length, unwritten });
        }
        runs
    })
}

/// The recorded map of a file of this size.
fn kept(size: u64) -> impl Strategy<Value = (u64, RecordedMap)> {
    let smallest = size.div_ceil(100).max(1 << 20).next_power_of_two();
    let digests = (0..4u32, any::<u64>()).prop_flat_map(move |(larger, extents)| {
        let span = smallest.checked_shl(larger).filter(|span| *span > 0).unwrap_or(smallest);
        let spans = usize::try_from(size.div_ceil(span).max(1)).expect("few");
        vec(any::<[u8; 16]>(), spans).prop_map(move |digests| (extents, RecordedMap::Digests { span, digests }))
    });
    prop_oneof![runs(118).prop_map(|runs| (runs.len() as u64, RecordedMap::Runs(runs))), digests]
}

fn needs() -> impl Strategy<Value = Needs> {
    let alignment = proptest::option::of((9..64u32).prop_map(|bits| 1 << bits));
    let number = proptest::option::of(1..=u64::MAX);
    let hold = prop_oneof![Just(Hold::Frozen), Just(Hold::Writable), Just(Hold::None)];
    (hold, alignment, number, 0..16u8, any::<bool>()).prop_map(|(hold, align, max_extents, allow, dax)| Needs {
        hold,
        align,
        max_extents,
        allow: Allow::from_bits_retain(allow),
        dax,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let flags = prop_oneof![
        Just(Xflags::empty()),
        Just(Xflags::IMMUTABLE),
        Just(Xflags::NODEFRAG),
        Just(Xflags::IMMUTABLE | Xflags::NODEFRAG)
    ];
    let inode = (any::<u64>(), any::<u32>(), proptest::option::of(any::<[u8; 16]>()), time(), time());
    let size = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    (needs(), flags, inode, size.prop_flat_map(|size| (Just(size), kept(size)))).prop_map(
        |(needs, flags, (inode, generation, uuid, mtime, time), (size, (extents, map)))| Record {
            needs,
            note: None,
            added: match needs.hold {
                Hold::Frozen => flags,
                Hold::Writable => flags & Xflags::NODEFRAG,
                Hold::None => Xflags::empty(),
            },
            identity: Identity { inode, generation },
            uuid: uuid.filter(|uuid| *uuid != [0; 16]),
            size,
            mtime,
            time,
            extents,
            map,
        },
    )
}

/// A record with a note of some length in bytes, which uses the room that the map leaves.
fn noted_record() -> impl Strategy<Value = Record> {
    let room = |record: &Record| (3072 - record.encode().len()).saturating_sub(2).min(256);
    (record(), any::<String>(), any::<Index>()).prop_map(move |(record, text, at)| {
        let mut length = at.index(room(&record) + 1);
        let text = text + &"ab\u{1b}\n".repeat(64);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        Record { note: Note::new(&text[..length]).ok(), ..record }
    })
}

/// A change that an attacker may make to bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Number(Index, u64),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let number =
        prop_oneof![any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit), (0..64u32).prop_map(|bit| u64::MAX >> bit)];
    let at = || any::<Index>();
    vec(
        prop_oneof![
            (at(), 1..=u8::MAX).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
            (at(), number).prop_map(|(at, number)| Mutation::Number(at, number)),
            (at(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
            (at(), 1..60usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
            (at(), 1..400usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
            at().prop_map(Mutation::Cut),
        ],
        1..5,
    )
}

fn mutated(mut bytes: Vec<u8>, mutations: Vec<Mutation>) -> Vec<u8> {
    for mutation in mutations {
        let length = bytes.len();
        let place = |at: Index| at.index(length + 1);
        match mutation {
            Mutation::Flip(at, bits) => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte ^= bits),
            Mutation::Number(at, number) => {
                bytes.iter_mut().skip(place(at)).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Mutation::Insert(at, new) => drop(bytes.splice(place(at)..place(at), new)),
            Mutation::Remove(at, count) => drop(bytes.drain(place(at)..(place(at) + count).min(length))),
            Mutation::Repeat(at, count) => {
                let again = bytes[place(at)..(place(at) + count).min(length)].to_vec();
                bytes.splice(place(at)..place(at), again);
            }
            Mutation::Cut(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop_oneof![any::<String>().prop_map(String::into_bytes), vec(any::<u8>(), 0..40)];
    let file = proptest::option::of((any::<u64>(), any::<u32>(), any::<u64>(), any::<Option<[u8; 16]>>()));
    (name, file, proptest::option::of(runs(20))).prop_map(|(name, file, runs)| Entry {
        path: OsString::from_vec(name).into(),
        identity: file.map(|(inode, generation, ..)| Identity { inode, generation }),
        uuid: file.and_then(|(.., uuid)| uuid),
        size: file.map_or(0, |(_, _, size, _)| size),
        map: runs.map(RecordedMap::Runs),
    })
}

/// One file with this instead of its extents.
fn with_extents(extents: &str) -> String {
    format!(r#"{{"schema_version": 1, "files": [{{"path": "a", "extents": {extents}}}]}}"#)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_reads_back(record in noted_record()) {
        prop_assert_eq!(decode(&record.encode()), Ok(record));
    }

    #[test]
    fn noise_is_no_record(bytes in vec(any::<u8>(), 0..4096)) {
        checks::record(&bytes);
        checks::record(&[b"daxfile\x01", &bytes[..]].concat());
        checks::record(&[b"daxfile\x02", &bytes[..]].concat());
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_mutated_record_is_refused_or_another(record in noted_record(), mutations in mutations()) {
        let bytes = record.encode();
        let mutated = mutated(bytes.clone(), mutations);
        if mutated != bytes {
            prop_assert!(decode(&mutated).is_err(), "its checksum is wrong");
        }
        checks::record(&mutated);
    }

    /// Runs of any numbers, of which some are next to valid: accepted are those that a file can have, and no others.
    #[test]
    fn impossible_runs_are_refused(
        good in runs(110),
        bad in vec((any::<Index>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..3),
        swap in proptest::option::of((any::<Index>(), any::<Index>())),
        count in proptest::option::of(any::<u64>()),
        record in record(),
    ) {
        let mut runs = good;
        for (at, logical, physical, length) in bad {
            runs.insert(at.index(runs.len() + 1), Position { logical, physical, length, unwritten: false });
        }
        if let Some((a, b)) = swap.filter(|_| !runs.is_empty()) {
            let (a, b) = (a.index(runs.len()), b.index(runs.len()));
            runs.swap(a, b);
        }
        let wide = |number: u64| u128::from(number);
        let possible = runs.iter().all(|run| {
            run.length > 0 && [run.logical, run.physical].iter().all(|start| wide(*start) + wide(run.length) < 1 << 64)
        });
        let ordered = runs.windows(2).all(|pair| wide(pair[0].logical) + wide(pair[0].length) <= wide(pair[1].logical));
        let counted = count.is_none_or(|count| count == runs.len() as u64);
        let expected = Record { extents: count.unwrap_or(runs.len() as u64), map: RecordedMap::Runs(runs), ..record };
        let decoded = decode(&expected.encode());
        if possible && ordered && counted {
            prop_assert_eq!(decoded, Ok(expected));
        } else {
            prop_assert!(matches!(decoded, Err(DecodeError::Bad(_))), "{:?}", decoded);
        }
    }

    /// The decoder allocates memory for the runs that are present, not for the number that the record claims.
    #[test]
    fn absurd_counts_take_no_memory(record in record(), count in 200..=u64::MAX) {
        let mut bytes = record.encode();
        bytes[COUNT..RUNS].copy_from_slice(&count.to_le_bytes());
        checks::record(&bytes);
        bytes.truncate(RUNS);
        bytes.resize(3072, 1);
        checks::record(&bytes);
    }

    #[test]
    fn a_manifest_reads_back(entries in vec(entry(), 0..8)) {
        let read = parse(written(&entries).to_string().as_bytes()).expect("of the right form");
        prop_assert_eq!(format!("{:?}", read.entries()), format!("{entries:?}"));
    }

    #[test]
    fn a_mutated_manifest_is_refused_or_another(entries in vec(entry(), 1..4), mutations in mutations()) {
        let mut bytes = mutated(written(&entries).to_string().into_bytes(), mutations);
        bytes.truncate(16 << 10);
        checks::manifest(&bytes);
    }

    #[test]
    fn noise_is_no_manifest(bytes in vec(any::<u8>(), 0..4096), text in any::<String>()) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(parse(text.as_bytes()).is_err());
    }

    /// Numbers that are none of ours, wherever one is expected.
    #[test]
    fn huge_numbers_are_refused(
        number in "(-[1-9][0-9]{0,30}|[1-9][0-9]{20,400}|[0-9]{1,5}[.][0-9]{1,400}|[1-9][eE][+-]?[0-9]{1,9}|\"[0-9]{1,9}\")",
        field in 0..4usize,
    ) {
        let fields = ["logical", "physical", "length", "raw_flags"];
        let extent: Vec<_> = fields.iter().enumerate().map(|(at, name)| {
            format!("\"{name}\": {}", if at == field { number.as_str() } else { "1" })
        }).collect();
        let mut texts = vec![with_extents(&format!("[{{{}}}]", extent.join(", ")))];
        texts.extend(
            [
                r#"{"schema_version": @, "files": []}"#,
                r#"{"schema_version": 1, "files": [{"path": "a", "file": {"inode": @, "generation": 1, "size": 1}}]}"#,
            ]
            .map(|text| text.replace('@', &number)),
        );
        for text in texts {
            prop_assert!(parse(text.as_bytes()).is_err(), "{}", text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Brackets as deep as one likes, where something is expected and where it is passed over.
    #[test]
    fn deep_nesting_takes_no_memory(depth in 1..100_000usize, open in prop_oneof![Just("["), Just("{\"a\":")], place in 0..4usize) {
        let deep = open.repeat(depth);
        let text = match place {
            0 => deep,
            1 => format!("{{\"schema_version\": 1, \"other\": {deep}"),
            2 => with_extents(&deep),
            _ => format!("{{\"schema_version\": 1, \"files\": [{{\"path\": {deep}"),
        };
        prop_assert!(parse(text.as_bytes()).is_err());
    }
}

/// A wrong value in place of a path is skipped, not collected.
#[test]
fn malformed_path_takes_no_memory() {
    for path in [format!("[{}0]", "0,".repeat(100_000)), format!("{{{}\"b\":0}}", "\"a\":0,".repeat(100_000))] {
        let text = format!("{{\"schema_version\": 1, \"files\": [{{\"path\": {path}}}]}}");
        parse(text.as_bytes()).expect_err("not a path");
    }
}

/// Readers must not be able to disagree on which of two equal keys counts.
#[test]
fn a_key_given_twice_is_refused() {
    let whole = r#"{"schema_version": 1, "files": [{"path": "a", "file": {"inode": 1, "generation": 1, "size": 1}, "extents": [{"logical": 0, "physical": 0, "length": 1, "raw_flags": 0}]}]}"#;
    parse(whole.as_bytes()).expect("a manifest");
    for pair in [
        r#""schema_version": 1"#,
        r#""files": []"#,
        r#""path": "a""#,
        r#""file": null"#,
        r#""extents": []"#,
        r#""inode": 1"#,
        r#""generation": 1"#,
        r#""size": 1"#,
        r#""logical": 0"#,
        r#""physical": 0"#,
        r#""length": 1"#,
        r#""raw_flags": 0"#,
    ] {
        let key = pair.split_once(':').expect("a pair").0;
        let twice = whole.replacen(key, &format!("{pair}, {key}"), 1);
        assert_ne!(twice, whole);
        assert!(parse(twice.as_bytes()).is_err(), "{twice}");
    }
    let path = r#"{"schema_version": 1, "files": [{"path": {"bytes": "YQ==", "bytes": "Yg=="}}]}"#;
    assert!(parse(path.as_bytes()).is_err());
}

/// The largest input of each kind that fits into this many bytes.
#[test]
fn decoders_take_memory_in_proportion_to_input() {
    const BYTES: usize = 16 << 10;
    let repeated = |head: &str, piece: &str| format!("{head}{}", piece.repeat((BYTES - head.len()) / piece.len()));
    let files = r#"{"schema_version": 1, "files": ["#;
    for text in [
        repeated(files, r#"{"path":""},"#),
        repeated(&format!("{files}{{\"path\": ["), "0,"),
        repeated(&format!("{files}{{\"path\": ["), "[],"),
        repeated(&format!("{files}{{\"path\": {{"), "\"\":0,"),
        repeated(&format!("{files}{{\"path\": \""), "\\u0001"),
        repeated(
            &format!("{files}{{\"path\": \"a\", \"extents\": ["),
            r#"{"logical":0,"physical":0,"length":0,"raw_flags":0},"#,
        ),
        repeated("", "\u{1}"),
    ] {
        assert!(parse(text.as_bytes()).is_err());
    }
}

/// The seeds of the fuzzer are real output of daxfile.
#[test]
fn fuzzer_seeds_are_real_output() {
    let seeds = |decoder: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("decoders/seeds").join(decoder);
        let files: Vec<_> =
            std::fs::read_dir(&dir).expect("seeds").map(|entry| entry.expect("a file").path()).collect();
        assert!(files.len() >= 3, "{}", dir.display());
        files.into_iter().map(|path| std::fs::read(path).expect("a file"))
    };
    for seed in seeds("record") {
        assert_eq!(sealed(&seed), seed);
        decode(&seed).expect("a record");
        assert!(seed.len() >= RUNS + RUN.min(16));
    }
    for seed in seeds("manifest") {
        parse(&seed).expect("a manifest");
    }
}

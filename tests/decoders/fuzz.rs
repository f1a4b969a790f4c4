//! Feeds libFuzzer's inputs to the decoder that `DECODER` names. Built and run by tests/scripts/fuzz.sh.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![no_main]

mod checks;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| match std::env::var("DECODER").as_deref() {
    Ok("record") => checks::record,
    Ok("manifest") => checks::manifest,
    other => panic!("DECODER={other:?} is neither record nor manifest"),
});

fuzz_target!(|bytes: &[u8]| CHECK(bytes));

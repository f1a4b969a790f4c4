//! Guests that are killed without warning and booted again, with their persistent memory kept: `tests/lab.sh --kills`;
//! and guests that hibernate: `tests/lab.sh --hibernate`.
//!
//! Under `--kills` a test there runs once a boot, and is a sequence of phases: it looks at [`boot`], and in every boot
//! but the last ends with [`wait_for_the_kill`]. Its result is the last boot's, unless it ends before a kill that it
//! should have met.

use std::fs;
use std::io::Write;
use std::time::Duration;

/// The number of this boot, from 0, and whether it is the last.
pub fn boot() -> (u64, bool) {
    let text = fs::read_to_string("/lab/boot").expect("tests/lab.sh --kills N KERNEL PROGRAM");
    let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    let (boot, kills) = (next(), next());
    (boot, boot == kills)
}

/// Tells the boots that follow.
pub fn say(what: &str) {
    // In one piece, on a line of its own, even if other programs write meanwhile.
    let mut line = fs::OpenOptions::new().write(true).open("/dev/lab").expect("the lab's line");
    line.write_all(format!("\nlab: {what}\n").as_bytes()).expect("the lab's line");
}

/// The lines after `name` that earlier boots, and programs in them, have said, in this order.
pub fn said(name: &str) -> Vec<String> {
    let text = fs::read_to_string("/lab/said").expect("what was said");
    let after = |line: &str| line.strip_prefix("lab: ")?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    text.lines().filter_map(after).collect()
}

/// Has the guest booted with these parameters when it is powered off next, under `tests/lab.sh --hibernate`.
pub fn boot_with(parameters: &str) {
    say(&format!("boot with {parameters}"));
}

/// Powers the guest off, without unmounting anything.
pub fn power_off() -> ! {
    fs::write("/proc/sysrq-trigger", "o").expect("sysrq");
    std::thread::sleep(Duration::from_secs(120));
    panic!("the guest goes on");
}

/// Has the guest killed, within two seconds.
pub fn wait_for_the_kill() -> ! {
    say("kill now");
    std::thread::sleep(Duration::from_secs(120));
    panic!("nobody killed the guest");
}

//! Hibernation to pinned swap files, in a guest that `tests/lab.sh --hibernate` boots again each time it powers off.
//!
//! The first boot makes the swap files. The second has the place of the one on XFS on its command line, and hibernates:
//! all that follows happens in that kernel, which each further boot resumes. Debian's kernels have their disk drivers
//! and filesystems as modules, so that the lab's init starts the resume, as an initramfs does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use daxfile_tests::child::spawn;
use daxfile_tests::lab::{boot_with, power_off};
use daxfile_tests::tools::{on, sh};
use daxfile_tests::{Run, report, run};

const RESUME: [&str; 3] = ["map", "--format", "resume"];
const COMPARE: [&str; 4] = ["map", "--format", "resume", "--compare"];

struct Volume {
    name: &'static str,
    mkfs: &'static str,
    device: &'static str,
}

const XFS: Volume = Volume { name: "xfs", mkfs: "mkfs.xfs -q", device: "/dev/vda" };
const EXT4: Volume = Volume { name: "ext4", mkfs: "mkfs.ext4 -q -b 4096", device: "/dev/vdb" };

impl Volume {
    fn mount(&self) {
        sh(format!("mkdir -p /mnt/{0}; mount {1} /mnt/{0}", self.name, self.device));
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/mnt").join(self.name).join(name)
    }

    fn swap(&self) -> PathBuf {
        self.path("swap")
    }
}

/// Follows daxfile(8), SWAP FILES.
fn make_swap(path: &Path, size: &str) {
    run(&["alloc", "-s", size, "--align", "4K"], path).expect(0);
    sh(on(path, "chmod 600 $F; mkswap -q $F"));
    run(&["pin", "--hold", "none"], path).expect(0);
}

fn unmount_all() {
    for volume in [XFS, EXT4] {
        sh(format!("umount /mnt/{}", volume.name));
    }
}

/// The two parameters that name the file's blocks, for a kernel's command line.
fn place(swap: &Path) -> String {
    run(&RESUME, swap).expect(0).text().trim().to_owned()
}

/// Tells the running kernel where to hibernate to, as systemd does before each hibernation.
fn set(swap: &Path) {
    let mapping = report(&RESUME, swap, 0)["mapping"].clone();
    fs::write("/sys/power/resume_offset", mapping["resume_offset"].to_string()).unwrap();
    fs::write("/sys/power/resume", mapping["device"].as_str().unwrap()).unwrap();
}

/// Returns when the machine has been powered off and has resumed, with an error if it did not come to that.
fn hibernate() -> std::io::Result<()> {
    fs::write("/sys/power/disk", "shutdown")?;
    fs::write("/sys/power/state", "disk")
}

/// A process that has a secret in its memory alone, and counts how often it was asked.
struct Keeper {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    fn start() -> Keeper {
        let mut command = Command::new("bash");
        command.args(["-c", "secret=$SRANDOM$SRANDOM; while read -r; do echo \"$((++asked)) $secret\"; done"]);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Keeper { child, questions, answers }
    }

    fn ask(&mut self) -> (u32, String) {
        self.questions.write_all(b"\n").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let (asked, secret) = answer.trim().split_once(' ').expect("an answer");
        (asked.parse().unwrap(), secret.to_owned())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hibernates to a swap file, and checks it and a process when the machine is back.
fn hibernate_to(volume: &Volume, hold: &str) {
    let swap = volume.swap();
    sh(on(&swap, "swapon $F"));
    set(&swap);
    let mut keeper = Keeper::start();
    let (_, secret) = keeper.ask();
    boot_with(&place(&swap));
    hibernate().unwrap_or_else(|error| panic!("hibernation to {}: {error}", swap.display()));
    assert_eq!(keeper.ask(), (2, secret), "{hold} on {}", volume.name);
    run(&["verify"], &swap).expect(0);
    sh(on(&swap, "swapoff $F"));
    run(&["verify"], &swap).expect(0);
    println!("resumed from {} ({hold})", swap.display());
}

fn resume_offset(run: &Run) -> u64 {
    let (_, offset) = run.text().trim().rsplit_once("resume_offset=").expect("an offset");
    offset.parse().unwrap()
}

/// The swap file is made again, so its header is elsewhere.
fn stale_offset_is_told(swap: &Path) {
    let was = resume_offset(&run(&RESUME, swap).expect(0));
    set(swap);
    run(&COMPARE, swap).expect(0);
    run(&["unpin"], swap).expect(0);
    sh(on(swap, "mv $F $F.old"));
    make_swap(swap, "64M");
    let now = resume_offset(&run(&RESUME, swap).expect(0));
    assert_ne!(was, now);

    let told = run(&COMPARE, swap).expect(1);
    let lines: Vec<_> = told.text().lines().collect();
    assert!(lines[1].contains(&format!(" resume_offset={now} ")), "{told}");
    assert!(
        lines[2].contains("/proc/cmdline") && lines[2].contains(&format!(" resume_offset={was}: differs")),
        "{told}"
    );
    assert!(lines[3].contains("/sys/power") && lines[3].contains(&format!(" resume_offset={was}: differs")), "{told}");

    // As the page says, the kernel finds no swap at the old place.
    sh(on(swap, "swapon $F"));
    assert!(hibernate().is_err(), "hibernated to another place than the swap file's");
    set(swap);
    // The next boot would still use the old place.
    let told = run(&COMPARE, swap).expect(1);
    assert_eq!(told.text().matches("differs").count(), 1, "{told}");
    sh(on(swap, "swapoff $F"));
}

#[test]
#[ignore = "runs in the lab: tests/lab.sh --hibernate KERNEL faults hibernation::"]
fn hibernated_machine_resumes_from_pinned_swap_files_in_the_lab() {
    if !fs::read_to_string("/proc/cmdline").unwrap().contains(" resume=") {
        for volume in [XFS, EXT4] {
            sh(format!("{} {}", volume.mkfs, volume.device));
            volume.mount();
            make_swap(&volume.swap(), "640M");
        }
        boot_with(&place(&XFS.swap()));
        unmount_all();
        power_off();
    }

    for volume in [XFS, EXT4] {
        volume.mount();
        run(&["verify"], &volume.swap()).expect(0);
    }
    let booted = XFS.path("booted");
    assert!(!booted.exists(), "it did not resume, but booted");
    sh(on(&booted, "touch $F; sync $F"));
    // Set by the boot loader on the command line, and by the initramfs in /sys/power.
    let told = run(&COMPARE, &XFS.swap()).expect(0);
    assert!(!told.text().contains("not set"), "{told}");
    assert_eq!(run(&COMPARE, &EXT4.swap()).expect(1).text().matches("differs").count(), 2);

    for hold in ["none", "writable"] {
        for volume in [XFS, EXT4] {
            if hold != "none" {
                run(&["unpin"], &volume.swap()).expect(0);
                run(&["pin", "--hold", hold], &volume.swap()).expect(0);
            }
            hibernate_to(&volume, hold);
        }
    }
    run(&["unpin"], &EXT4.swap()).expect(0);
    stale_offset_is_told(&XFS.swap());
    unmount_all();
}

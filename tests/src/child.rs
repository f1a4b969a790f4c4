//! Starting other programs, one at a time.
//!
//! From fork to exec a child has copies of all our descriptors, whichever thread they belong to. During that time a
//! file that its test has closed is still open: a lease is refused, a program cannot be executed, a filesystem cannot
//! be unmounted. Here every start waits until the previous start is past that point. So if a test closes a descriptor
//! and then starts a program, no copies are left when the program runs, and the test need not know what other tests are
//! doing.

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// [`Command::spawn`], which returns when the child has only the descriptors that were meant for it.
#[track_caller]
pub fn spawn(command: &mut Command) -> Child {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    #[expect(clippy::disallowed_methods, reason = "this is what others are to call")]
    let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // The standard library has seen exec, but the kernel releases the descriptors that exec closes only on the way back
    // to user mode. It handles signals there, too, and only after that.
    let pid = Pid::from_raw(child.id().try_into().expect("a process number"));
    kill(pid, Signal::SIGSTOP).expect("our own child");
    waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("our own child");
    kill(pid, Signal::SIGCONT).expect("our own child");
    child
}

/// Runs a program to its end, without input.
#[track_caller]
pub fn finish(command: &mut Command) -> Output {
    let child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    child.wait_with_output().expect("wait for the child")
}

/// A child that is killed when its value is dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

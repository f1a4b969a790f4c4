//! The directory below which this test process keeps everything, and its removal.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::child::spawn;

/// Statics are never dropped and a killed process drops nothing, so a shell waits for the end of our pipe and then
/// removes the rest.
const JANITOR: &str = r#"
cat >/dev/null
tac /proc/self/mountinfo | while read -r _ _ _ _ point _; do
    point=$(printf %b "$point")
    case $point in "$1"/*) umount -l "$point" ;; esac
done
rm -rf --one-file-system "$1"
"#;

struct WorkDir {
    path: PathBuf,
    _janitor: Child,
}

/// A new directory, searchable by every user, which is removed when it is dropped or when this process ends.
pub(crate) fn new_dir(prefix: &str) -> tempfile::TempDir {
    static WORK: OnceLock<WorkDir> = OnceLock::new();
    let work = WORK.get_or_init(|| {
        // Mount points are compared with /proc/self/mountinfo, which shows no symbolic links.
        let parent = std::env::temp_dir().canonicalize().expect("TMPDIR exists");
        let path = public(&parent, "daxfile-tests.").keep();
        let mut janitor = Command::new("bash");
        janitor.args(["-c", JANITOR, "janitor"]).arg(&path).current_dir("/");
        janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its own process group: an interrupt from the terminal must not reach it.
        let janitor = spawn(janitor.process_group(0));
        WorkDir { path, _janitor: janitor }
    });
    public(&work.path, prefix)
}

fn public(parent: &Path, prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(parent)
        .unwrap_or_else(|e| panic!("a directory in {}: {e}", parent.display()));
    set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod of our own directory");
    dir
}

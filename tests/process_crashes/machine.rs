//! What this machine allows: tools, mounts, privileges; and how a test says what it does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Says why a test, or a part of one, does not run here.
pub fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
}

pub fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")))
}

/// Runs a tool; what it said when it failed or is not there.
pub fn run(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{program} {}: {said}", words.join(" "))) }
}

/// Why system calls cannot be traced and made to fail here; `None` when they can.
pub fn no_strace() -> Option<String> {
    run("strace", &["-f", "-D", "-o", "/dev/null", "-e", "inject=fsync:error=EIO:when=1", "true"]).err()
}

/// A file system of its own, unmounted when dropped.
pub struct Mounted {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mounted {
    /// A file system in memory of so many bytes; why not, when the machine does not allow it.
    pub fn tmpfs(bytes: u64) -> Result<Self, String> {
        let (folder, path) = mount_point();
        let size = format!("size={bytes}");
        run("mount", &["-t", "tmpfs", "-o", &size, "shoal-test", text(&path)])?;
        Ok(Mounted { path, _folder: folder })
    }

    /// An ext4 of so many bytes in a file.
    pub fn ext4(bytes: u64) -> Result<Self, String> {
        let (folder, path) = mount_point();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        // Nothing is kept for root, who the tests are: a full one is full for them.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        let mounted = Mounted { path, _folder: folder };
        mounted.mount_image()?;
        Ok(mounted)
    }

    fn image(&self) -> PathBuf {
        self._folder.path().join("image")
    }

    pub fn mount_image(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(&self.image()), text(&self.path)]).map(drop)
    }

    pub fn unmount(&self) -> Result<(), String> {
        run("umount", &[text(&self.path)]).map(drop)
    }

    /// Whether the file system in the file is whole; what the checker said when it is not.
    pub fn check_image(&self) -> Result<String, String> {
        run("e2fsck", &["-f", "-n", text(&self.image())])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", text(&self.path)]);
    }
}

fn mount_point() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mounted");
    std::fs::create_dir(&path).unwrap();
    (folder, path)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

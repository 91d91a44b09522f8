//! A small disk of its own for a data folder, which can be filled and emptied.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Shortage {
    folder: PathBuf,
}

impl Shortage {
    /// Mounts a file system of so many MiB in memory at `folder`; needs root.
    pub(crate) fn of(folder: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "conca-test"]).arg(folder);
        let output = mount.output().unwrap();
        assert!(output.status.success(), "tests of full disks need root: {}", String::from_utf8_lossy(&output.stderr));
        Self { folder: folder.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Fills it up until so much is left.
    pub(crate) fn begin_leaving_mib(&self, left: u64) {
        const CHUNK: usize = 16_384;
        let mut filler = File::create(self.filler()).unwrap();
        // The last chunk is cut where there is no more room: so full can a disk be.
        while left << 20 < self.free() || left == 0 {
            if filler.write_all(&[0; CHUNK]).is_err() {
                break;
            }
        }
    }

    fn free(&self) -> u64 {
        conca::state::disk_free(&self.folder).unwrap()
    }

    /// Makes room again.
    pub(crate) fn end(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        // Lazily: the program may still be there where a test has failed.
        drop(Command::new("umount").arg("-l").arg(&self.folder).status());
    }
}

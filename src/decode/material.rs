//! Real sample data for the tests, in the folder that `CONCA_MATERIAL` names.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file or folder of the material; none where there is no material, which is said, and fails in CI.
pub(crate) fn material(path: &str, test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("CONCA_MATERIAL").map(|folder| Path::new(&folder).join(path)).filter(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have the material: {path}");
        // Past the capture of tests that succeed: what is left out must be seen.
        drop(writeln!(std::io::stderr(), "left out: {test}: no material"));
    }
    found
}

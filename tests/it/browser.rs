//! Pages, in a real browser: Debian's Chromium, driven by the scripts of `tests/browser`.

use std::path::Path;
use std::process::Command;

use crate::support::Setup;

/// Runs a script against the interface of a program without any source.
fn check(script: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(folder.join("node_modules").is_dir(), "the browser's driver is not installed: run tests/run, or npm ci in tests/browser");
    let setup = Setup::new();
    let conca = setup.start_unready();
    let output = Command::new("node").arg(folder.join(script)).arg(conca.origin()).output().expect("there is Node");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{script}: {said}");
    conca.stop();
}

#[test]
fn the_description_is_whole_by_keyboard_and_on_a_telephone() {
    check("docs.mjs");
}

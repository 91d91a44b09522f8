//! Who may know whom. The program stays readable in one direction only while this holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each module of the crate may name with `crate::`, beside itself. Foundations are `model`, `config`, `state` and
/// `metrics`; stages know foundations only, and `app` joins the stages.
const ALLOWED: [(&str, &[&str]); 24] = [
    ("model", &[]),
    // A subscription's section names its decoder, that of quality its checks.
    ("config", &["model", "decode", "quality"]),
    ("state", &["model"]),
    ("metrics", &["model"]),
    ("ingest", &["model"]),
    ("decode", &["model"]),
    ("normalise", &["model"]),
    ("quality", &["model", "state"]),
    ("intake", &["model", "state", "quality"]),
    ("rollup", &["model"]),
    ("store", &["model", "config", "state", "metrics", "rollup"]),
    ("query", &["model", "config", "state", "metrics", "rollup", "store"]),
    ("mapping", &["model", "decode"]),
    ("sql", &["model", "config", "state", "rollup", "store", "query"]),
    ("tls", &["config"]),
    ("alert", &["model", "config", "state", "metrics"]),
    (
        "api",
        &[
            "model",
            "config",
            "state",
            "metrics",
            "ingest",
            "decode",
            "mapping",
            "normalise",
            "intake",
            "store",
            "query",
            "sql",
            "tls",
            "alert",
        ],
    ),
    (
        "app",
        &[
            "model",
            "config",
            "state",
            "metrics",
            "ingest",
            "decode",
            "mapping",
            "normalise",
            "quality",
            "intake",
            "rollup",
            "store",
            "query",
            "sql",
            "tls",
            "alert",
            "api",
        ],
    ),
    ("keep", &["model", "config", "state", "store"]),
    ("demo", &["model", "config", "app", "alert"]),
    // The pure core of questions.
    ("query/aggregate", &["model", "query", "rollup"]),
    ("query/function", &["model", "query"]),
    ("query/health", &["model", "query"]),
    ("query/plan", &["model", "query", "rollup"]),
];

/// Crates whose types stay inside one module.
const OWNED: [(&str, &[&str]); 11] = [
    ("rumqttc", &["ingest"]),
    ("rusqlite", &["state"]),
    // Parquet files that people exchange are written with the same crates.
    ("deltalake", &["store", "sql", "keep"]),
    ("datafusion", &["store", "sql"]),
    ("object_store", &["store"]),
    ("datafusion_postgres", &["sql"]),
    ("axum", &["api"]),
    ("axum_server", &["api"]),
    ("tower_http", &["api"]),
    ("mqtt5", &["demo"]),
    ("conca_simulators", &["demo"]),
];

/// The pure core of questions knows of its own stage only itself.
const QUERY_CORE: [&str; 4] = ["aggregate", "function", "health", "plan"];

struct Source {
    /// Path below `src`, without its ending.
    name: String,
    code: String,
}

#[test]
fn stages_know_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let modules: BTreeSet<&str> = allowed.keys().copied().filter(|name| !name.contains('/')).collect();
    let mut problems = Vec::new();
    // A test may set its scene with any stage.
    let is_test = |name: &str| name.split('/').any(|level| level == "tests");
    for source in sources().iter().filter(|source| !matches!(source.name.as_str(), "lib" | "main") && !is_test(&source.name)) {
        let Some((rule, may)) = rule_of(&source.name, &allowed) else {
            problems.push(format!("src/{}.rs: the table in tests/it/layering.rs lacks its module", source.name));
            continue;
        };
        let own = source.name.split('/').next().unwrap();
        let is_core = rule.contains('/');
        for named in named_after(&source.code, "crate::") {
            let first = named.split("::").next().unwrap();
            let is_own = first == own && (!is_core || named.split("::").nth(1).is_some_and(|second| QUERY_CORE.contains(&second)));
            let is_module = modules.contains(first);
            if is_module && !is_own && (!may.contains(&first) || (is_core && first == own)) {
                problems.push(format!("src/{}.rs: {rule} must not name crate::{named}", source.name));
            }
        }
        // From a module at the top, `super` is the crate.
        if !source.name.contains('/') {
            let around = named_after(&source.code, "super::");
            problems.extend(
                around
                    .iter()
                    .filter(|named| modules.contains(named.as_str()))
                    .map(|named| format!("src/{}.rs: super::{named}", source.name)),
            );
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn types_of_other_crates_stay_where_they_belong() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.name != "main") {
        let own = source.name.split('/').next().unwrap();
        for (crate_name, owners) in OWNED {
            if !owners.contains(&own) && !named_after(&source.code, &format!("{crate_name}::")).is_empty() {
                problems.push(format!("src/{}.rs: {crate_name} belongs to {}", source.name, owners.join(", ")));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_reader_of_paths_sees_through_groups_comments_and_texts() {
    let code = code_of(
        "use crate::{model::{A, B::C as D}, store::lake::{x::Y, Z}, api};\n// crate::api\n/* crate::api */ let text = \"crate::api\"; crate::state::Live;\n\
         let quote = '\"'; crate::config::X; not_crate::alert; let life: &'static str = r#\"crate::api \" \"#; crate::error_chain(e)",
    );
    let expected = ["api", "config::X", "error_chain", "model::A", "model::B", "state::Live", "store::lake"];
    assert_eq!(named_after(&code, "crate::").into_iter().collect::<Vec<_>>(), expected);
}

fn rule_of<'a>(name: &str, allowed: &BTreeMap<&'a str, &'a [&'a str]>) -> Option<(&'a str, &'a [&'a str])> {
    let mut levels = name.split('/');
    let own = levels.next()?;
    let core = levels.next().map(|second| format!("{own}/{second}"));
    let found = core.as_deref().and_then(|core| allowed.get_key_value(core)).or_else(|| allowed.get_key_value(own));
    found.map(|(rule, may)| (*rule, *may))
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 40, "src was not found");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().to_owned();
            Source { name, code: code_of(&std::fs::read_to_string(&path).unwrap()) }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// The text without comments and the content of string literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") || rest.starts_with("r\"") {
            let closing = if rest.starts_with("r#") { "\"#" } else { "\"" };
            let opening = closing.len() + 1;
            rest[opening..].find(closing).map_or(rest.len(), |end| opening + end + closing.len())
        } else if first == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_at, letter)| {
                let closes = *letter == '"' && !escaped;
                escaped = *letter == '\\' && !escaped;
                closes
            });
            end.map_or(rest.len(), |(at, _quote)| at + 1)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Every path that follows `prefix`, groups in braces resolved to their members' first two levels.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _prefix) in code.match_indices(prefix) {
        let is_whole = code[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':');
        if is_whole {
            paths(&code[at + prefix.len()..], "", &mut named);
        }
    }
    named
}

/// Reads one path, or a group of them; returns what follows.
fn paths<'a>(text: &'a str, before: &str, named: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = paths(rest, before, named).trim_start();
            match rest.strip_prefix(',') {
                Some(next) if next.trim_start().starts_with('}') => return next.trim_start().strip_prefix('}').unwrap(),
                Some(next) => rest = next,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '*').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let path = match before {
        "" => word.to_owned(),
        _ if word.is_empty() || before.contains("::") => before.to_owned(),
        _ => format!("{before}::{word}"),
    };
    if let Some(next) = rest.strip_prefix("::") {
        return paths(next, &path, named);
    }
    named.insert(path);
    // An alias belongs to the member.
    rest.find([',', '}', ';']).filter(|_end| rest.starts_with(" as ")).map_or(rest, |end| &rest[end..])
}

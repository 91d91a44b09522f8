//! The machine on which all this was measured.

/// One line about it.
pub(crate) fn description() -> String {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (processors, memory, kernel) = (file("/proc/cpuinfo"), file("/proc/meminfo"), file("/proc/sys/kernel/osrelease"));
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default().trim_start_matches([':', '\t', ' ']);
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory_kib: u64 =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    format!("Machine: {count} × {model}, {} GiB, Linux {}; all processes share it.\n", memory_kib >> 20, kernel.trim())
}

//! No test waits for a clock on the wall.

use super::{Faults, File, rust_files};

/// In milliseconds, of a test's sleep by the wall clock.
const LONGEST_SLEEP: u64 = 100;

/// In milliseconds, of a server's sleep.
const FOR_EVER: u64 = 20_000;

#[test]
fn no_test_sleeps_for_long() {
    let files: Vec<File> = rust_files().into_iter().filter(|file| file.path.contains("tests")).collect();
    let constants: Vec<(&str, u64)> = files.iter().flat_map(|file| file.all_code()).filter_map(constant).collect();
    let mut faults = Faults::default();
    for file in files.iter().filter(|file| !file.path.starts_with("tests/tidy")) {
        for (number, line) in file.all_code() {
            for length in sleeps(line, &constants) {
                match length {
                    Some(millis) if millis <= LONGEST_SLEEP => {}
                    Some(millis) => faults.add(file, number, format_args!("sleeps {millis} ms: await an event")),
                    None => faults.add(file, number, "sleeps for what is neither a number nor a constant"),
                }
            }
        }
    }
    faults.none();
}

/// The name and the milliseconds of a constant that is a duration.
fn constant((_, line): (usize, &str)) -> Option<(&str, u64)> {
    let (name, value) =
        line.trim_start().trim_start_matches("pub ").strip_prefix("const ")?.split_once(": Duration = ")?;
    Some((name, millis(value.trim_end_matches(';'))?))
}

/// The milliseconds of `Duration::from_millis(5)` and its like.
fn millis(duration: &str) -> Option<u64> {
    let (unit, number) = duration.strip_suffix(')')?.strip_prefix("Duration::from_")?.split_once('(')?;
    let number: f64 = number.replace('_', "").parse().ok()?;
    let factor = match unit {
        "millis" => 1.0,
        "secs" | "secs_f64" => 1000.0,
        "micros" => 0.001,
        _ => return None,
    };
    Some((number * factor).ceil() as u64)
}

/// How many milliseconds each sleep in the line takes, as far as that can be told. A server that sleeps for very long
/// stands for one that never answers: nobody waits for its end.
fn sleeps(line: &str, constants: &[(&str, u64)]) -> Vec<Option<u64>> {
    let mut found = Vec::new();
    for (at, call) in line.match_indices("sleep(") {
        let argument = inside_parentheses(&line[at + call.len()..]);
        if line[..at].ends_with("pg_") {
            let millis = argument.and_then(|seconds| Some((seconds.parse::<f64>().ok()? * 1000.0).ceil() as u64));
            if millis.is_none_or(|millis| millis < FOR_EVER) {
                found.push(millis);
            }
        } else {
            let named = |name: &str| constants.iter().filter(|known| known.0 == name).map(|known| known.1).max();
            let argument = argument.map(|argument| argument.trim_start_matches("std::time::"));
            found.push(argument.and_then(|argument| millis(argument).or_else(|| named(argument))));
        }
    }
    found
}

/// What comes before the parenthesis that closes one opened just before `text`.
fn inside_parentheses(text: &str) -> Option<&str> {
    let mut depth = 1;
    let end = text.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    })?;
    Some(&text[..end])
}

#[test]
fn a_sleep_is_seen_in_any_of_its_forms() {
    let constants = [("POLL", 3), ("LONG", 250)];
    let slept = |line| sleeps(line, &constants);
    assert_eq!(slept("tokio::time::sleep(POLL).await; sleep(LONG).await"), [Some(3), Some(250)]);
    assert_eq!(slept("std::thread::sleep(std::time::Duration::from_secs(2))"), [Some(2000)]);
    assert_eq!(slept("sleep(2 * SECOND)"), [None]);
    assert_eq!(slept("SELECT pg_sleep(0.05), pg_sleep(5), pg_sleep(20), pg_sleep($1)"), [Some(50), Some(5000), None]);
    assert_eq!(constant((1, "pub const POLL: Duration = Duration::from_millis(3);")), Some(("POLL", 3)));
}

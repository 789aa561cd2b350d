//! Clients that share nothing with this crate, at the emulator: tokens by botocore and the AWS SDK for JavaScript, logins
//! and statements by psql, psycopg2, psycopg, asyncpg and node-postgres.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rds_proxy_pool::emulator::{Event, TokenRefusal};

use crate::support::process::find_program;
use crate::support::tools::{folder, skip};
use crate::support::world::World;

const USER: &str = "app";
const HOW_TO_GET_THEM: &str = "no psql, or no Python with boto3 and psycopg2 for this test. Debian: apt-get install \
                               python3-boto3 python3-psycopg2 postgresql-client (or run .ci/setup)";

/// A Python that has what the script needs; `None` where something is missing and may be.
fn python() -> Option<PathBuf> {
    let has_modules = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import boto3, psycopg2"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].map(PathBuf::from).into_iter().find(has_modules);
    let found = found.filter(|_| find_program("psql").is_some());
    if found.is_none() {
        skip(HOW_TO_GET_THEM);
    }
    found
}

/// Runs a script that logs in again and again; the lines it printed, and what the emulator told of each login.
async fn play(world: &World, mut command: tokio::process::Command) -> (Vec<String>, Vec<String>) {
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&world.pool()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, world.ca_pem()).unwrap();
    let (key, secret, session_token) = World::keys();
    let argument = serde_json::json!({
        "host": world.proxy().host(), "port": world.port(), "region": "us-east-1", "user": USER,
        "database": database, "key": key, "secret": secret, "session_token": session_token, "ca_file": ca_file,
    });

    let mut events = world.proxy().events();
    let output = command.arg(argument.to_string()).kill_on_drop(true).output().await.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut told = Vec::new();
    let mut unanswered = BTreeSet::new();
    while let Some(event) = events.try_next() {
        match &event {
            Event::Statement { session, .. } => drop(unanswered.insert(*session)),
            Event::Answered(session) => drop(unanswered.remove(session)),
            _ => {}
        }
        match event {
            Event::LoggedIn { user, .. } => told.push(format!("logged in as {user}")),
            Event::LoginRefused { code, token, .. } => told.push(format!("{code} {token:?}")),
            _ => {}
        }
    }
    assert!(unanswered.is_empty(), "for the emulator these clients still have work under way: {unanswered:?}");
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    println!("{}", lines.join("\n"));
    (lines, told)
}

fn script(program: &Path, name: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name));
    // Python would leave its bytecode beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

const REFUSED: &str =
    "The IAM authentication failed for the role app. Check the IAM token for this role and try again.";

/// What each client does first, and what it sees.
const STEPS: [&str; 7] = [
    "select: app 42",
    "insert: 1",
    "commit: 2",
    "rollback: 2",
    "prepared: 14 16",
    "error: 22012",
    "error in a transaction: 25P02 2",
];

/// The lines of a client that does more between the first steps and the refused login.
fn steps(client: &str, more: &[&str]) -> Vec<String> {
    let refused = format!("refused: {REFUSED}");
    let steps = STEPS.iter().chain(more).copied().chain([refused.as_str()]);
    steps.map(|step| format!("{client}: {step}")).collect()
}

/// A right token, then a wrong one.
fn in_and_out() -> [String; 2] {
    ["logged in as app".to_owned(), format!("28P01 {:?}", Some(TokenRefusal::WrongSignature))]
}

#[tokio::test]
async fn psycopg_and_asyncpg_are_served_what_they_ask_for() {
    let Some(modules) = folder("python") else { return };
    let Some(python) = python() else { return };
    let Some(world) = World::start().await else { return };
    let mut command = script(&python, "smoke.py");
    command.env("PYTHONPATH", modules);
    let (lines, told) = play(&world, command).await;
    let no_cancel = "a cancel request changes nothing: 1";
    let psycopg =
        ["copy: 10", "copy with parameters: COPY_IN", "rows: 1", "cursor: 1 2 10 11 12", no_cancel, "pipeline: 0 1 2"];
    let asyncpg = ["copy: 10", "cursor: 1 2 10 11", no_cancel, "many: 7"];
    assert_eq!(lines, [steps("psycopg", &psycopg), steps("asyncpg", &asyncpg)].concat());
    assert_eq!(told, [in_and_out(), in_and_out()].concat());
}

#[tokio::test]
async fn node_postgres_is_served_what_it_asks_for() {
    let Some(modules) = folder("node") else { return };
    let Some(node) = find_program("node") else { return skip("no node for this test: .ci/setup installs it") };
    let Some(world) = World::start().await else { return };
    let mut command = script(&node, "smoke.js");
    command.env("NODE_PATH", modules.join("node_modules"));
    let (lines, told) = play(&world, command).await;
    assert_eq!(lines, steps("node-postgres", &[]));
    assert_eq!(told, in_and_out());
}

#[tokio::test]
async fn psql_and_psycopg2_get_in_with_botocore_s_token_and_with_nothing_less() {
    let Some(python) = python() else { return };
    let Some(world) = World::start().await else { return };
    let (lines, told) = play(&world, script(&python, "clients.py")).await;
    assert_eq!(told.len(), lines.len(), "one login a line: {told:#?} {lines:#?}");
    let seen: Vec<_> = lines.iter().zip(told).map(|(line, told)| format!("{line} ({told})")).collect();

    let in_ = "t|42 (logged in as app)".to_owned();
    let token = |reason| format!("{REFUSED} (28P01 {:?})", Some(reason));
    let expected = [
        ("right", in_.clone()),
        ("14 minutes old", in_),
        ("expired", token(TokenRefusal::Expired)),
        ("wrong host", token(TokenRefusal::WrongHost)),
        ("wrong port", token(TokenRefusal::WrongPort)),
        ("wrong user", token(TokenRefusal::WrongUser)),
        ("wrong secret", token(TokenRefusal::WrongSignature)),
        ("tampered query", token(TokenRefusal::WrongSignature)),
        ("no TLS", "This RDS Proxy requires TLS connections. (28000 None)".to_owned()),
        ("password", token(TokenRefusal::NotAToken)),
    ];
    let of_both = |(case, result)| ["psql", "psycopg2"].map(|client| format!("{case}: {client}: {result}"));
    let expected: Vec<String> = expected.into_iter().flat_map(of_both).collect();
    assert_eq!(seen, expected, "seen, then expected");
}

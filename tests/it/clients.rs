//! Clients that share nothing with this crate, at the emulator: botocore's tokens, psql and psycopg2.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rds_proxy_pool::emulator::{Event, TokenRefusal};

use crate::support::process::find_program;
use crate::support::tools::skip;
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

#[tokio::test]
async fn psql_and_psycopg2_get_in_with_botocore_s_token_and_with_nothing_less() {
    let Some(python) = python() else { return };
    let Some(world) = World::start().await else { return };
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
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clients.py");
    let mut command = tokio::process::Command::new(python);
    command.arg("-B").arg(script).arg(argument.to_string()).kill_on_drop(true);
    let output = command.output().await.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut told = Vec::new();
    while let Some(event) = events.try_next() {
        match event {
            Event::LoggedIn { user, .. } => told.push(format!("logged in as {user}")),
            Event::LoginRefused { code, token, .. } => told.push(format!("{code} {token:?}")),
            _ => {}
        }
    }
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(told.len(), lines.len(), "one login a line: {told:#?} {lines:#?}");
    let seen: Vec<_> = lines.iter().zip(told).map(|(line, told)| format!("{line} ({told})")).collect();

    let in_ = "t|42 (logged in as app)".to_owned();
    let token = |reason| {
        let text = "The IAM authentication failed for the role app. Check the IAM token for this role and try again.";
        format!("{text} (28P01 {:?})", Some(reason))
    };
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
    println!("{}", seen.join("\n"));
    assert_eq!(seen, expected, "seen, then expected");
}

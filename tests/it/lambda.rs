//! The local Lambda that examples and tests run handlers in.

use std::io::Write;
use std::time::{Duration, SystemTime};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

use crate::support::lambda::{Builder, InvocationResult, LambdaError, LambdaFunction};
use crate::support::process::POLL;

mod sqs;

/// Not a test: the handler, which the tests below start from this very program.
#[test]
fn the_handler_of_the_other_tests() {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        if std::env::var_os("EXIT_IN_INIT").is_some() {
            eprintln!("no configuration");
            std::process::exit(3);
        }
        if let Some(path) = std::env::var_os("TICKS") {
            tokio::spawn(async move {
                let mut ticks = std::fs::File::create(path).expect("the test has made the folder");
                loop {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    ticks.write_all(b".").expect("there is room");
                }
            });
        }
        lambda_runtime::run(service_fn(handle)).await.expect("the runtime API answers");
    });
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    match event.payload["do"].as_str().unwrap_or_default() {
        "fail" => Err("told to fail".into()),
        "panic" => panic!("told to panic"),
        "exit" => std::process::exit(7),
        "hang" => std::future::pending().await,
        "environment" => Ok(std::env::vars().map(|(name, value)| (name, Value::from(value))).collect()),
        "time left" => {
            let left = event.context.deadline().duration_since(SystemTime::now())?;
            Ok(json!(left.as_millis() as u64))
        }
        _ => {
            println!("handling {}", event.context.request_id);
            Ok(json!({ "got": event.payload, "pid": std::process::id() }))
        }
    }
}

fn function() -> Builder {
    let itself = std::env::current_exe().expect("the test knows its program");
    let name = "lambda::the_handler_of_the_other_tests";
    LambdaFunction::builder(itself).arg("--exact").arg(name).arg("--nocapture")
}

#[tokio::test]
async fn an_event_reaches_the_handler_and_its_answer_comes_back() {
    let mut function = function().idle();
    let first = function.invoke(json!({ "n": 1 })).await.expect("the handler starts");
    assert!(first.init.is_some_and(|init| init > Duration::ZERO), "the first invocation is a cold start");
    let second = function.invoke(json!({ "n": 2 })).await.expect("the handler runs");
    assert_eq!(second.init, None, "the second is not");
    let (first, second) = (first.value().expect("an answer").clone(), second.value().expect("an answer").clone());
    assert_eq!((&first["got"]["n"], &second["got"]["n"]), (&json!(1), &json!(2)));
    assert_eq!(first["pid"], second["pid"]);
    function.recycle();
    assert_eq!(function.logs().matches("handling 8476a536-e9f4-11e8-9739-00000000000").count(), 2);
}

#[tokio::test]
async fn the_handler_sees_lambda_s_variables_and_none_of_ours() {
    let mut function = function().env("DB_USER", "app").env_remove("AWS_SESSION_TOKEN").idle();
    let invocation = function.invoke(json!({ "do": "environment" })).await.expect("the handler starts");
    let seen = invocation.value().expect("an answer").as_object().expect("an object");
    assert_eq!(seen["DB_USER"], "app");
    assert_eq!(seen["AWS_LAMBDA_INITIALIZATION_TYPE"], "on-demand");
    assert!(seen["AWS_LAMBDA_RUNTIME_API"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")));
    for name in ["HOME", "USER", "CARGO_MANIFEST_DIR", "AWS_SESSION_TOKEN"] {
        assert!(!seen.contains_key(name), "{name} leaked in");
    }
}

#[tokio::test]
async fn a_frozen_process_does_not_run_and_a_thawed_one_does() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("ticks");
    let ticks = || std::fs::metadata(&file).map_or(0, |file| file.len());
    let grows = async || {
        let before = ticks();
        while ticks() < before + 10 {
            tokio::time::sleep(POLL).await;
        }
    };
    let mut function = function().env("TICKS", file.to_str().expect("our names are UTF-8")).idle();
    function.invoke(json!({})).await.expect("the handler starts");
    for _ in 0..2 {
        let before = ticks();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The signal may take a moment.
        assert!(ticks() - before <= 5, "{} ticks while frozen", ticks() - before);
        function.thaw();
        tokio::time::timeout(Duration::from_secs(10), grows()).await.expect("it runs when thawed");
        function.freeze();
    }
}

#[tokio::test]
async fn errors_and_panics_are_answers_and_the_process_lives_on() {
    let mut function = function().start().await.expect("the handler starts");
    let pid = function.process_id();
    for (what, message) in [("fail", "told to fail"), ("panic", "told to panic")] {
        let invocation = function.invoke(json!({ "do": what })).await.expect("the handler runs");
        let InvocationResult::HandlerError { message: got, .. } = invocation.result else {
            panic!("{what}: {invocation:?}");
        };
        assert!(got.contains(message), "{got}");
    }
    assert_eq!(function.process_id(), pid);
    assert_eq!(function.cold_starts(), 1);
}

#[tokio::test]
async fn the_deadline_is_the_function_timeout_and_a_handler_that_exceeds_it_is_killed() {
    let mut function = function().timeout(Duration::from_millis(600)).start().await.expect("the handler starts");
    let left = function.invoke(json!({ "do": "time left" })).await.expect("the handler runs");
    let left = left.value().expect("an answer").as_u64().expect("a number");
    assert!((1..=600).contains(&left), "{left} ms left");

    let hung = function.invoke(json!({ "do": "hang" })).await.expect("the handler runs");
    assert_eq!(hung.result, InvocationResult::TimedOut);
    assert!(hung.duration >= Duration::from_millis(600));
    assert_eq!(function.process_id(), None);
    let next = function.invoke(json!({})).await.expect("the handler starts again");
    assert!(next.init.is_some(), "the next invocation is a cold start");
    assert!(next.value().is_ok());
}

#[tokio::test]
async fn a_process_that_ends_is_a_crash_and_the_next_invocation_starts_another() {
    let mut function = function().start().await.expect("the handler starts");
    let crashed = function.invoke(json!({ "do": "exit" })).await.expect("the handler runs");
    assert!(matches!(&crashed.result, InvocationResult::Crashed(how) if how.contains('7')), "{crashed:?}");
    let next = function.invoke(json!({})).await.expect("the handler starts again");
    assert!(next.value().is_ok());
    function.recycle();
    function.invoke(json!({})).await.expect("the handler starts again");
    assert_eq!(function.cold_starts(), 3);
}

#[tokio::test]
async fn a_handler_that_fails_in_init_says_what_it_printed() {
    let failed = function().env("EXIT_IN_INIT", "1").start().await.expect_err("the handler exits");
    assert!(matches!(&failed, LambdaError::Init(why) if why.contains("no configuration")), "{failed}");
    LambdaFunction::builder("no-such-program").start().await.expect_err("there is no such program");
}

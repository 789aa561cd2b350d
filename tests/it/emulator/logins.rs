//! Who gets in, and what the others are told.

use rds_proxy_pool::emulator::Closed;
use sqlx::Connection;
use sqlx::postgres::PgSslMode;

use super::{Client, IAM_USER, Stage, USER, ended, soon};

#[tokio::test]
async fn a_user_with_a_password_gets_in_with_the_right_one_only() {
    let Some(stage) = Stage::start().await else { return };
    let text = "The password that was provided for the role by_password is wrong.";
    for wrong in ["wrong", "", "right "] {
        let (code, message) = stage.refusal(stage.options().password(wrong)).await;
        assert_eq!((code.as_str(), message.as_str()), ("28P01", text), "{wrong:?}");
    }
    stage.client().await;
    stage.proxy.set_password(USER, "another");
    assert_eq!(stage.refusal(stage.options()).await.0, "28P01");
    Client::login(&stage.proxy, &stage.options().password("another")).await;
}

#[tokio::test]
async fn a_user_the_proxy_does_not_know_is_refused_by_name() {
    let Some(stage) = Stage::start().await else { return };
    let text = "This RDS proxy has no credentials for the role nobody. Check the credentials for this role and try \
                again.";
    let (code, message) = stage.refusal(stage.options().username("nobody")).await;
    assert_eq!((code.as_str(), message.as_str()), ("28000", text));
    // The owner of the database is known to the server, not to the proxy.
    assert_eq!(stage.refusal(stage.options().username("postgres")).await.0, "28000");
}

#[tokio::test]
async fn a_token_user_with_a_password_is_refused_with_the_text_for_tokens() {
    let Some(stage) = Stage::start().await else { return };
    let text = "The IAM authentication failed for the role by_token. Check the IAM token for this role and try again.";
    let (code, message) = stage.refusal(stage.options().username(IAM_USER)).await;
    assert_eq!((code.as_str(), message.as_str()), ("28P01", text));
}

#[tokio::test]
async fn command_line_options_at_startup_are_not_supported() {
    let Some(stage) = Stage::start().await else { return };
    let (code, message) = stage.refusal(stage.options().options([("statement_timeout", "1000")])).await;
    assert_eq!(code, "0A000");
    assert!(message.contains("support command-line options"), "{message}");
}

#[tokio::test]
async fn one_client_more_than_the_limit_is_refused_until_another_leaves() {
    let Some(stage) = Stage::start_with(|builder| builder.client_limit(2)).await else { return };
    let (mut first, _second) = (stage.client().await, stage.client().await);
    let (code, message) = stage.refusal(stage.options()).await;
    assert_eq!(code, "53300");
    assert_eq!(message, "The maximum number of client connections to the proxy exceeded 2.");
    first.connection.close().await.unwrap();
    assert_eq!(ended(&mut first.events, first.session).await, Closed::ByClient);
    soon(stage.proxy.counted(|counts| counts.open == 1)).await;
    let _third = stage.client().await;
    assert_eq!(stage.refusal(stage.options()).await.0, "53300");
    stage.proxy.set_client_limit(None);
    stage.client().await;
}

#[tokio::test]
async fn without_tls_nobody_gets_in_where_it_is_required() {
    let Some(stage) = Stage::start().await else { return };
    for user in [USER, IAM_USER] {
        let plain = stage.options().username(user).ssl_mode(PgSslMode::Disable);
        let (code, message) = stage.refusal(plain).await;
        let expected = ("28000", "This RDS Proxy requires TLS connections.");
        assert_eq!((code.as_str(), message.as_str()), expected, "{user}");
    }
}

#[tokio::test]
async fn without_tls_only_passwords_get_in_where_it_is_not_required() {
    let Some(stage) = Stage::start_with(|builder| builder.requires_tls(false)).await else { return };
    let plain = stage.options().ssl_mode(PgSslMode::Disable);
    Client::login(&stage.proxy, &plain).await;
    let (code, message) = stage.refusal(plain.username(IAM_USER)).await;
    let expected = ("28000", "IAM authentication is allowed only with SSL connections.");
    assert_eq!((code.as_str(), message.as_str()), expected);
}

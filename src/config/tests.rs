use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const NS: Duration = Duration::from_nanos(1);

fn nothing(_: &str) -> Option<OsString> {
    None
}

fn by_password() -> ProxyConfigBuilder {
    ProxyConfig::builder().endpoint("localhost").user("u").database("d").password("hunter2")
}

fn by_iam() -> ProxyConfigBuilder {
    ProxyConfig::builder().endpoint("db.proxy-abc.eu-west-1.rds.amazonaws.com").user("u").database("d")
}

fn built(builder: ProxyConfigBuilder) -> Result<ProxyConfig, Error> {
    builder.build_in(&nothing)
}

/// Code and text of the refusal, in which there must be no password.
fn refusal(result: Result<ProxyConfig, Error>) -> (&'static str, String) {
    let error = result.unwrap_err();
    let printed = format!("{error} {error:#} {error:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    (error.code(), error.to_string())
}

fn environment(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
    let variables: HashMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    move |name| variables.get(name).cloned()
}

fn from(prefix: &str, lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<ProxyConfig, Error> {
    Environment::new(prefix, lookup).builder()?.build_in(lookup)
}

fn from_variables(variables: &[(&str, &str)]) -> Result<ProxyConfig, Error> {
    from("", &environment(variables))
}

/// The least that must be set, and `more`, which comes first.
fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let least = [("RDS_PROXY_ENDPOINT", "localhost"), ("DB_USER", "u"), ("DB_NAME", "d")];
    let least = least.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    more.iter().copied().chain(least).collect()
}

#[test]
fn every_duration_is_taken_at_both_ends_of_its_range_and_refused_one_nanosecond_beyond() {
    type Set = fn(ProxyConfigBuilder, Duration) -> ProxyConfigBuilder;
    type Get = fn(&ProxyConfig) -> Duration;
    type B = ProxyConfigBuilder;
    type C = ProxyConfig;
    let table: [(&str, Set, Get, Duration, Duration, Duration); 9] = [
        ("acquire_timeout", B::acquire_timeout, C::acquire_timeout, 2 * SEC, MS, 300 * SEC),
        ("connect_timeout", B::connect_timeout, C::connect_timeout, 5 * SEC, 10 * MS, 300 * SEC),
        ("syn_timeout", B::syn_timeout, C::syn_timeout, SEC, 50 * MS, 60 * SEC),
        ("margin", B::margin, C::margin, 250 * MS, Duration::ZERO, 60 * SEC),
        ("min_attempt", B::min_attempt, C::min_attempt, 100 * MS, MS, 60 * SEC),
        ("validate_after", B::validate_after, C::validate_after, SEC, Duration::ZERO, 3600 * SEC),
        ("ping_timeout", B::ping_timeout, C::ping_timeout, 2 * SEC, 10 * MS, 60 * SEC),
        ("idle_limit", B::idle_limit, C::idle_limit, 1500 * SEC, SEC, 8 * 3600 * SEC),
        ("max_lifetime", B::max_lifetime, C::max_lifetime, 12 * 3600 * SEC, SEC, 24 * 3600 * SEC),
    ];
    for (name, set, get, default, lowest, highest) in table {
        assert_eq!(get(&built(by_password()).unwrap()), default, "{name}");
        for legal in [lowest, highest] {
            assert_eq!(get(&built(set(by_password(), legal)).unwrap()), legal, "{name}");
        }
        for illegal in [lowest.checked_sub(NS), Some(highest + NS)].into_iter().flatten() {
            let message = format!("{name}: {illegal:?} is outside {lowest:?}..={highest:?}");
            assert_eq!(refusal(built(set(by_password(), illegal))), ("config.range", message));
        }
    }

    assert_eq!(built(by_password()).unwrap().call_timeout(), None);
    for legal in [MS, 900 * SEC] {
        assert_eq!(built(by_password().call_timeout(legal)).unwrap().call_timeout(), Some(legal));
    }
    for illegal in [MS - NS, 900 * SEC + NS] {
        let message = format!("call_timeout: {illegal:?} is outside 1ms..=900s");
        assert_eq!(refusal(built(by_password().call_timeout(illegal))), ("config.range", message));
    }
}

#[test]
fn every_number_is_taken_at_both_ends_of_its_range_and_refused_beyond() {
    let config = built(by_password()).unwrap();
    assert_eq!((config.lifetime_jitter_ratio(), config.statement_cache_capacity()), (0.1, 100));
    for legal in [0.0, 0.5] {
        assert_eq!(built(by_password().lifetime_jitter_ratio(legal)).unwrap().lifetime_jitter_ratio(), legal);
    }
    for illegal in [-0.001, 0.501, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = format!("lifetime_jitter_ratio: {illegal:?} is outside 0.0..=0.5");
        assert_eq!(refusal(built(by_password().lifetime_jitter_ratio(illegal))), ("config.range", message));
    }
    for legal in [1, 10_000] {
        assert_eq!(built(by_password().statement_cache_capacity(legal)).unwrap().statement_cache_capacity(), legal);
    }
    for illegal in [0, 10_001] {
        let message = format!("statement_cache_capacity: {illegal} is outside 1..=10000");
        assert_eq!(refusal(built(by_password().statement_cache_capacity(illegal))), ("config.range", message));
    }
    assert_eq!(refusal(built(by_password().port(0))), ("config.range", "port: 0 is outside 1..=65535".to_owned()));
    assert!(built(by_password().application_name("a".repeat(63))).is_ok());
    let (code, message) = refusal(built(by_password().application_name("é".repeat(32))));
    assert_eq!(code, "config.range");
    assert!(message.ends_with("is 64 bytes long, outside 0..=63"), "{message}");
}

#[test]
fn a_default_number_of_connections_never_makes_the_other_one_illegal() {
    let sizes = |builder: ProxyConfigBuilder, concurrency: &'static str| {
        let lookup = environment(&[("AWS_LAMBDA_MAX_CONCURRENCY", concurrency)]);
        builder.build_in(&lookup).map(|config| (config.max_idle(), config.max_connections()))
    };
    let table = [
        (by_password(), "", (1, 4)),
        (by_password(), "0", (1, 4)),
        (by_password(), "1", (1, 4)),
        (by_password(), " 10 ", (10, 13)),
        (by_password(), "5000", (1000, 1000)),
        (by_password(), "ten", (1, 4)),
        (by_password(), "-1", (1, 4)),
        (by_password().max_idle(0), "10", (0, 3)),
        (by_password().max_idle(998), "10", (998, 1000)),
        (by_password().max_idle(1000), "10", (1000, 1000)),
        (by_password().max_connections(4), "10", (4, 4)),
        (by_password().max_connections(1), "10", (1, 1)),
        (by_password().max_connections(1000), "10", (10, 1000)),
        (by_password().max_idle(3).max_connections(3), "10", (3, 3)),
    ];
    for (builder, concurrency, expected) in table {
        assert_eq!(sizes(builder, concurrency).unwrap(), expected);
    }
    let table = [
        (by_password().max_idle(1001), "max_idle: 1001 is outside 0..=1000"),
        (by_password().max_connections(0), "max_connections: 0 is outside 1..=1000"),
        (by_password().max_connections(1001), "max_connections: 1001 is outside 1..=1000"),
        (by_password().max_idle(4).max_connections(3), "max_connections: 3 is outside 4..=1000 (max_idle is 4)"),
    ];
    for (builder, message) in table {
        assert_eq!(refusal(built(builder)), ("config.range", message.to_owned()));
    }
}

#[test]
fn code_that_cannot_be_used_is_refused_by_the_setters_name() {
    let blank = ProxyConfig::builder;
    let url = |text: &str| blank().database_url(text);
    let table = [
        (blank(), "config.missing", "endpoint: not set"),
        (blank().endpoint("h"), "config.missing", "user: not set"),
        (blank().endpoint("h").user("u"), "config.missing", "database: not set"),
        (url("postgres://h/d"), "config.missing", "database_url: names no user"),
        (url("postgres://u:hunter2@h"), "config.missing", "database_url: names no database"),
        (url("postgres://u@h/d"), "config.missing", "database_url: names no password, and IAM is used with a URL only"),
        (url("postgres://u:@h/d"), "config.missing", "database_url: names no password"),
        (url("mysql://u:hunter2@h/d"), "config.url", "database_url: must begin with"),
        (url("postgres://u:hunter2@h/d?sslmode=allow"), "config.unsupported", "database_url: sslmode=allow is refused"),
        (url("postgres://u:hunter2@h/d%00"), "config.invalid", "database_url: the database holds a NUL byte"),
        (url("postgres://u:hunter2%00@h/d"), "config.invalid", "database_url: the password holds a NUL byte"),
        (by_password().endpoint("a b"), "config.invalid", "endpoint: \"a b\" is not a host name"),
        (by_password().user(""), "config.invalid", "user: is empty"),
        (by_password().database("d\0"), "config.invalid", "database: the database holds a NUL byte"),
        (by_password().password(""), "config.invalid", "password: the password is empty"),
        (by_password().application_name("\0"), "config.invalid", "application_name: the application name holds"),
        (by_password().region("EU West"), "config.invalid", "region: \"EU West\" is not a region"),
        (by_password().region(""), "config.invalid", "region: \"\" is not a region"),
        (by_password().ca_pem("hunter2"), "config.invalid", "ca_pem: it holds no certificate in PEM form"),
        (by_password().ca_file("/dev/null"), "config.invalid", "ca_file: \"/dev/null\" holds no certificate"),
        (by_password().ca_file("/no/file"), "config.file", "ca_file: cannot read \"/no/file\": No such file"),
        (by_password().endpoint("h:1").port(2), "config.conflict", "port: 2 is not the port 1 in endpoint"),
        (url("postgres://u:hunter2@h:1/d").port(2), "config.conflict", "port: 2 is not the port 1 in database_url"),
        (by_password().database_url("postgres://h"), "config.conflict", "database_url: endpoint is set as well"),
        (by_iam().danger_disable_tls(), "config.conflict", "danger_disable_tls: refused together with IAM"),
        (
            by_iam().danger_accept_invalid_certs(),
            "config.conflict",
            "danger_accept_invalid_certs: refused together with IAM",
        ),
    ];
    for (builder, code, message) in table {
        let refused = refusal(built(builder));
        assert!(refused.0 == code && refused.1.starts_with(message), "{refused:?} is not {code} {message}");
    }
}

#[test]
fn the_later_call_counts_and_setters_override_the_url() {
    assert!(matches!(built(by_password().iam()).unwrap().auth(), Auth::Iam));
    assert!(matches!(built(by_iam().iam().password("p")).unwrap().auth(), Auth::Password(_)));
    assert_eq!(built(by_password().danger_disable_tls()).unwrap().tls(), Tls::Disabled);
    assert_eq!(built(by_password().ca_file("/no/file").ca_pem(PEM)).unwrap().ca_pem(), Some(PEM.as_bytes()));

    let url = ProxyConfig::builder().database_url("postgres://a:b@h:1/c?application_name=n");
    let config = built(url.clone()).unwrap();
    assert_eq!((config.user(), config.database(), config.application_name()), ("a", "c", Some("n")));
    assert_eq!((config.endpoint().host(), config.endpoint().port(), config.tls()), ("h", Some(1), Tls::VerifyFull));
    let config = built(url.user("A").database("C").application_name("N").password("B").port(1)).unwrap();
    assert_eq!((config.user(), config.database(), config.application_name()), ("A", "C", Some("N")));
    assert!(matches!(config.auth(), Auth::Password(password) if password.expose() == "B"));
}

#[test]
fn the_region_is_the_one_by_code_else_the_hosts_else_the_environments() {
    let lookup = environment(&[("AWS_REGION", "us-east-1")]);
    let region = |builder: ProxyConfigBuilder| builder.build_in(&lookup).unwrap().region().map(str::to_owned);
    assert_eq!(region(by_iam().region("sa-east-1")).as_deref(), Some("sa-east-1"));
    assert_eq!(region(by_iam()).as_deref(), Some("eu-west-1"));
    assert_eq!(region(by_iam().endpoint("localhost")).as_deref(), Some("us-east-1"));
    assert_eq!(built(by_iam().endpoint("localhost")).unwrap().region(), None);
    let blank = environment(&[("AWS_REGION", " ")]);
    assert_eq!(by_iam().endpoint("localhost").build_in(&blank).unwrap().region(), None);
}

#[test]
fn every_variable_is_read_with_its_prefix() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), PEM).unwrap();
    let lookup = environment(&[
        ("ORDERS_RDS_PROXY_ENDPOINT", " Db.example.com. "),
        ("ORDERS_DB_USER", "u"),
        ("ORDERS_DB_NAME", "d"),
        ("ORDERS_DB_PORT", "5433"),
        ("ORDERS_DB_PASSWORD", "hunter2"),
        ("ORDERS_DB_ACCESS", "read-only"),
        ("ORDERS_DB_CA_FILE", file.path().to_str().unwrap()),
        ("ORDERS_RDS_PROXY_CALL_TIMEOUT_MS", "1500"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "4"),
        ("RDS_PROXY_ENDPOINT", "not-this-one"),
    ]);
    let config = from("ORDERS_", &lookup).unwrap();
    assert_eq!((config.endpoint().host(), config.endpoint().port()), ("db.example.com", Some(5433)));
    assert_eq!((config.user(), config.database(), config.region()), ("u", "d", Some("us-east-1")));
    assert!(matches!(config.auth(), Auth::Password(password) if password.expose() == "hunter2"));
    assert_eq!((config.access(), config.tls()), (Access::ReadOnly, Tls::VerifyFull));
    assert_eq!(config.ca_pem(), Some(PEM.as_bytes()));
    assert_eq!((config.call_timeout(), config.max_idle()), (Some(1500 * MS), 4));
    assert_eq!(refusal(from("OTHER_", &lookup)).1, "OTHER_RDS_PROXY_ENDPOINT: not set");
}

#[test]
fn a_variable_that_cannot_be_used_is_refused_by_its_name() {
    let url = |text| ("DATABASE_URL", text);
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let table: &[(Variables<'_>, &str, &str)] = &[
        (&[], "config.missing", "RDS_PROXY_ENDPOINT: not set"),
        (&[("RDS_PROXY_ENDPOINT", "h")], "config.missing", "DB_USER: not set"),
        (&[("RDS_PROXY_ENDPOINT", "h"), ("DB_USER", "u")], "config.missing", "DB_NAME: not set"),
        (&[url("postgres://u@h/d")], "config.missing", "DATABASE_URL: names no password"),
        (&[url("postgres://u:hunter2@h/d?x=1")], "config.url", "DATABASE_URL: the parameter `x` is not one of"),
        (&[url("postgres://u:hunter2@h/d?sslmode=prefer")], "config.unsupported", "DATABASE_URL: sslmode=prefer"),
        (&[url("postgres://u:hunter2@h:1/d"), ("DB_PORT", "2")], "config.conflict", "DB_PORT: 2 is not the port 1 in"),
        (&with(&[("RDS_PROXY_ENDPOINT", "")]), "config.invalid", "RDS_PROXY_ENDPOINT: is empty"),
        (&with(&[("RDS_PROXY_ENDPOINT", "postgres://u:hunter2@h")]), "config.invalid", "RDS_PROXY_ENDPOINT: is a URL"),
        (&with(&[("RDS_PROXY_ENDPOINT", "h:1"), ("DB_PORT", "2")]), "config.conflict", "DB_PORT: 2 is not the port 1"),
        (&with(&[("DB_USER", "")]), "config.invalid", "DB_USER: is empty"),
        (&with(&[("DB_PORT", "54x")]), "config.invalid", "DB_PORT: \"54x\" is not a port (1 to 65535)"),
        (&with(&[("DB_PORT", "0")]), "config.invalid", "DB_PORT: \"0\" is not a port (1 to 65535)"),
        (&with(&[("DB_PASSWORD", "")]), "config.invalid", "DB_PASSWORD: the password is empty"),
        (
            &with(&[("DB_ACCESS", "write")]),
            "config.invalid",
            "DB_ACCESS: \"write\" is neither read-write nor read-only",
        ),
        (&with(&[("DB_CA_FILE", "")]), "config.invalid", "DB_CA_FILE: is empty"),
        (&with(&[("DB_CA_FILE", "/no/file")]), "config.file", "DB_CA_FILE: cannot read \"/no/file\": No such file"),
        (&with(&[("RDS_PROXY_CALL_TIMEOUT_MS", "5s")]), "config.invalid", "RDS_PROXY_CALL_TIMEOUT_MS: \"5s\" is not"),
        (&with(&[("RDS_PROXY_CALL_TIMEOUT_MS", "-1")]), "config.invalid", "RDS_PROXY_CALL_TIMEOUT_MS: \"-1\" is not"),
        (
            &with(&[("RDS_PROXY_CALL_TIMEOUT_MS", "0")]),
            "config.range",
            "RDS_PROXY_CALL_TIMEOUT_MS: 0ns is outside 1ms..=900s",
        ),
        (&with(&[("RDS_PROXY_CALL_TIMEOUT_MS", "900001")]), "config.range", "RDS_PROXY_CALL_TIMEOUT_MS: 900.001s is"),
        (&with(&[("AWS_REGION", "EU West")]), "config.invalid", "AWS_REGION: \"EU West\" is not a region"),
        (&with(&[("DB_SECRET_ARN", "arn:aws:hunter2")]), "config.unsupported", "DB_SECRET_ARN: this version"),
        (&with(&[("DB_DIAL_ADDR", "127.0.0.1:1")]), "config.unsupported", "DB_DIAL_ADDR: this version"),
    ];
    for (variables, code, message) in table {
        let refused = refusal(from_variables(variables));
        assert!(refused.0 == *code && refused.1.starts_with(message), "{refused:?} is not {code} {message}");
    }
}

#[test]
fn no_password_means_iam_and_an_endpoint_makes_the_url_irrelevant() {
    assert!(matches!(from_variables(&with(&[])).unwrap().auth(), Auth::Iam));
    let config =
        from_variables(&with(&[("DATABASE_URL", "nonsense"), ("DB_SECRET_ARN", ""), ("DB_PORT", "1")])).unwrap();
    assert_eq!((config.endpoint().host(), config.endpoint().port()), ("localhost", Some(1)));

    let lookup = environment(&[("DATABASE_URL", "postgres://a:b@h/c")]);
    let builder = || Environment::new("", &lookup).builder().unwrap();
    assert_eq!(built(builder()).unwrap().user(), "a");
    assert!(matches!(built(builder().iam()).unwrap().auth(), Auth::Iam));
    let by_code = built(builder().endpoint("other").user("u").database("d")).unwrap();
    assert!(matches!(by_code.auth(), Auth::Iam), "the URL's password is not for another endpoint");
    assert_eq!(refusal(built(builder().endpoint("other"))).1, "DB_USER: not set");
}

#[test]
fn a_value_that_is_not_text_is_refused_by_its_name() {
    let names = [
        "RDS_PROXY_ENDPOINT",
        "DB_USER",
        "DB_NAME",
        "DB_PORT",
        "DB_PASSWORD",
        "DB_ACCESS",
        "AWS_REGION",
        "DATABASE_URL",
    ];
    for broken in names {
        let mut variables = with(&[]);
        variables.retain(|(name, _)| broken != "DATABASE_URL" || *name != "RDS_PROXY_ENDPOINT");
        let least = environment(&variables);
        let lookup = |name: &str| match name == broken {
            true => Some(OsString::from_vec(vec![b'h', 0xff])),
            false => least(name),
        };
        assert_eq!(refusal(from("", &lookup)), ("config.invalid", format!("{broken}: not UTF-8")));
    }
}

#[test]
fn an_unknown_name_of_the_family_is_told_with_the_nearest_known_one() {
    let names = [
        "ORDERS_RDS_PROXY_ENDPIONT",
        "ORDERS_RDS_PROXY_CALL_TIMEOUT",
        "ORDERS_RDS_PROXY_ENDPOINT",
        "ORDERS_RDS_PROXY_CALL_TIMEOUT_MS",
        "ORDERS_RDS_PROXY_POOL_POSTGRES_URL",
        "RDS_PROXY_ENDPIONT",
        "PATH",
    ];
    let strangers = |prefix| Environment::new(prefix, &nothing).strangers(names.map(OsString::from).into_iter());
    let told = |name: &str, nearest: &str| (name.to_owned(), nearest.to_owned());
    let orders = [
        told("ORDERS_RDS_PROXY_ENDPIONT", "ORDERS_RDS_PROXY_ENDPOINT"),
        told("ORDERS_RDS_PROXY_CALL_TIMEOUT", "ORDERS_RDS_PROXY_CALL_TIMEOUT_MS"),
    ];
    assert_eq!(strangers("ORDERS_"), orders);
    assert_eq!(strangers(""), [told("RDS_PROXY_ENDPIONT", "RDS_PROXY_ENDPOINT")]);
}

#[test]
fn a_variable_the_driver_would_read_by_itself_is_refused_without_its_value() {
    let refused = |variables: &[(&str, &str)]| {
        let checked = env::refuse_stray(&["PGOPTIONS", "PGSSLKEY"], &environment(variables));
        checked.map_err(|error| (error.code(), error.to_string()))
    };
    assert_eq!(refused(&[("PGOPTIONS", ""), ("PGHOST", "h")]), Ok(()));
    let (code, message) = refused(&[("PGOPTIONS", "hunter2")]).unwrap_err();
    assert_eq!(code, "config.conflict");
    assert!(message.starts_with("PGOPTIONS: ") && !message.contains("hunter2"), "{message}");
    let (_, message) = refused(&[("PGSSLKEY", "hunter2")]).unwrap_err();
    assert!(message.starts_with("PGSSLKEY: ") && message.contains("client certificate"), "{message}");
}

#[test]
fn debug_shows_no_secret_and_no_certificate() {
    let keys = aws_credential_types::Credentials::new("AKIAHUNTER", "hunter2", Some("hunter2".into()), None, "test");
    let pem = format!("{PEM}hunter2");
    let builder = by_password().credentials_provider(keys).ca_pem(pem);
    let url = ProxyConfig::builder().database_url("postgres://u:hunter2@localhost/d");
    let (config, from_url) = (built(builder.clone()).unwrap(), built(url.clone()).unwrap());
    let printed = format!("{builder:?} {builder:#?} {config:?} {config:#?} {url:?} {from_url:?} {:?}", config.auth());
    for secret in ["hunter2", "AKIAHUNTER", "BEGIN CERTIFICATE", "104, 117, 110"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains("Secret(redacted)") && printed.contains("localhost"), "{printed}");
    assert!(config.credentials_provider().is_some() && built(by_iam()).unwrap().credentials_provider().is_none());
}

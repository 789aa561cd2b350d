//! What must hold of the parsers of settings, whatever they are given. See `crate::fuzzing`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use percent_encoding::percent_decode_str;

use super::database_url::DatabaseUrl;
use super::endpoint::region_of;
use super::env::Environment;
use super::{Access, Auth, Endpoint, ProxyConfig, Tls};
use crate::error::{Error, ErrorKind};

/// Text as a user would give it.
pub(crate) fn endpoint(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = region_of(text);
    match Endpoint::parse(text) {
        Ok(endpoint) => can_be_written_down(&endpoint),
        Err(why) => {
            assert!(!why.contains(char::is_control) && why.len() < 1200, "{why}");
            // What may hold a password is not shown.
            if let Some(mark) = ["://", "@"].into_iter().find(|mark| text.contains(mark)) {
                assert_eq!(Err(why), Endpoint::parse(mark));
            }
        }
    }
}

fn can_be_written_down(endpoint: &Endpoint) {
    let host = endpoint.host();
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let text = endpoint.port().map_or(bracketed.clone(), |port| format!("{bracketed}:{port}"));
    assert_eq!(Endpoint::parse(&text).as_ref(), Ok(endpoint));
    assert_eq!(Endpoint::parse(host), Ok(endpoint.clone().with_port(None)));
    assert!(!host.is_empty() && endpoint.port() != Some(0) && host == host.to_ascii_lowercase());
    for same in [host.to_owned(), host.to_ascii_uppercase(), format!("{host}.")] {
        assert_eq!(region_of(&same).as_deref(), endpoint.region(), "{same}");
    }
    assert!(endpoint.region().is_none_or(|region| host.split('.').any(|label| label == region)), "{endpoint:?}");
}

const VARIABLES: [&str; 11] = [
    "RDS_PROXY_ENDPOINT",
    "DB_USER",
    "DB_NAME",
    "DB_PORT",
    "DB_PASSWORD",
    "DB_ACCESS",
    "DB_CA_FILE",
    "DB_SECRET_ARN",
    "DB_DIAL_ADDR",
    "RDS_PROXY_CALL_TIMEOUT_MS",
    "DATABASE_URL",
];

/// A line for each variable, `NAME=value`; the first may be the prefix of their names.
pub(crate) fn environment(lines: &[u8]) {
    let mut lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    let prefix = match std::str::from_utf8(lines[0]) {
        Ok(prefix) if prefix.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => prefix,
        _ => "",
    };
    lines.retain(|line| line.contains(&b'='));
    let mut variables = BTreeMap::new();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b'=').unwrap_or_default();
        let name = String::from_utf8_lossy(&line[..at]).into_owned();
        // No file is to be found, whatever its name.
        let ca = name.ends_with("DB_CA_FILE") && at + 1 < line.len();
        let value = [if ca { "/no/such/folder/" } else { "" }.as_bytes(), &line[at + 1..]].concat();
        variables.insert(name, value);
    }

    let (told, read) = outcome(prefix, &variables);
    // The same with other passwords must look the same.
    let mut others = variables.clone();
    for (name, alter) in [("DB_PASSWORD", other_text as fn(&[u8]) -> Vec<u8>), ("DATABASE_URL", with_other_password)] {
        others.entry(format!("{prefix}{name}")).and_modify(|value| *value = alter(value));
    }
    assert_eq!(told, outcome(prefix, &others).0);

    let set = |name: &str| variables.get(&format!("{prefix}{name}"));
    match read {
        Ok(config) => {
            can_be_written_down(config.endpoint());
            assert!([config.user(), config.database()].iter().all(|text| !text.is_empty() && !text.contains('\0')));
            assert_eq!(config.tls(), Tls::VerifyFull);
            assert!(config.max_idle() <= config.max_connections());
            let limit = config.call_timeout().map_or(1, |limit| limit.as_millis());
            assert!((1..=900_000).contains(&limit), "{limit} ms");
            let read_only = set("DB_ACCESS").is_some_and(|value| value.windows(9).any(|part| part == b"read-only"));
            assert_eq!(config.access() == Access::ReadOnly, read_only);
            match config.auth() {
                Auth::Iam => assert!(set("DB_PASSWORD").is_none() && set("RDS_PROXY_ENDPOINT").is_some()),
                Auth::Password(password) => {
                    assert!(!password.expose().is_empty());
                    let given = set("DB_PASSWORD").map(Vec::as_slice);
                    assert!(given.is_none_or(|given| given == password.expose().as_bytes()));
                }
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(error.kind() == ErrorKind::Config && error.code().starts_with("config."), "{error:?}");
            let named = |name: &str| text.starts_with(&format!("{prefix}{name}: "));
            assert!(VARIABLES.into_iter().any(named) || text.starts_with("AWS_REGION: "), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}

/// All that is told of these variables, and what was read.
fn outcome(prefix: &str, variables: &BTreeMap<String, Vec<u8>>) -> (String, Result<ProxyConfig, Error>) {
    let lookup = |name: &str| variables.get(name).cloned().map(OsString::from_vec);
    let environment = Environment::new(prefix, &lookup);
    let strangers = environment.strangers(variables.keys().map(OsString::from));
    let builder = environment.builder();
    let told = format!("{strangers:?} {builder:?}");
    let read = builder.and_then(|builder| builder.build_in(&lookup));
    let shown = read.as_ref().err().map(|error| format!("{error} {error:#}"));
    (format!("{told} {read:?} {shown:?}"), read)
}

/// Another text of the same length and kind. Letters that are no hexadecimal digits are exchanged, so that percent
/// signs mean what they meant.
fn other_text(text: &[u8]) -> Vec<u8> {
    let other = |byte: &u8| match *byte {
        last @ (b'z' | b'Z') => last - (b'z' - b'g'),
        letter @ (b'g'..=b'y' | b'G'..=b'Y') => letter + 1,
        same => same,
    };
    text.iter().map(other).collect()
}

/// Where a URL has its password: from the first colon behind `://` to the last `@`.
fn password_in(url: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = url.windows(3).position(|part| part == b"://")? + 3;
    let colon = start + url[start..].iter().position(|byte| *byte == b':')?;
    let end = url.iter().rposition(|byte| *byte == b'@')?;
    (colon < end).then_some(colon + 1..end)
}

fn with_other_password(url: &[u8]) -> Vec<u8> {
    let mut url = url.to_vec();
    if let Some(password) = password_in(&url) {
        let other = other_text(&url[password.clone()]);
        url[password].copy_from_slice(&other);
    }
    url
}

/// The text of a URL.
pub(crate) fn database_url(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let other = String::from_utf8(with_other_password(text.as_bytes())).expect("ASCII was exchanged for ASCII");
    let read = DatabaseUrl::parse(text);
    assert_eq!(format!("{read:?}"), format!("{:?}", DatabaseUrl::parse(&other)));
    match read {
        Err(refusal) => {
            assert!(["config.url", "config.unsupported"].contains(&refusal.code), "{}", refusal.code);
            assert!(!refusal.message.contains(char::is_control) && refusal.message.len() < 200, "{}", refusal.message);
        }
        Ok(url) => {
            can_be_written_down(&url.endpoint);
            let text = text.trim();
            let decoded = |text: &str| {
                let text = percent_decode_str(text).decode_utf8().expect("it was accepted").into_owned();
                (!text.is_empty()).then_some(text)
            };
            let password = password_in(text.as_bytes()).and_then(|range| decoded(&text[range]));
            assert_eq!(url.password.as_ref().map(|password| password.expose()), password.as_deref());
            let rest = text.split_once("://").expect("it was accepted").1;
            let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let user = authority.rsplit_once('@').and_then(|(login, _)| decoded(login.split(':').next()?));
            assert_eq!(url.user, user);
            let path = tail.split('?').next().unwrap_or_default().trim_start_matches('/');
            assert_eq!(url.database, decoded(path));
        }
    }
}

//! `DATABASE_URL`: the settings it names, with nothing guessed and nothing echoed.

use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use crate::secret::Secret;

/// What a URL says; what it leaves out is left open.
#[derive(Clone, Debug)]
pub(super) struct DatabaseUrl {
    pub(super) endpoint: Endpoint,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) ca_file: Option<String>,
}

/// Why a URL cannot be used. No text of the URL is in it, save for the name of a parameter and a known `sslmode`.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code: "config.url", message: message.into() })
}

impl DatabaseUrl {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("is not of the form postgres://user:password@host/database");
        };
        if !["postgres", "postgresql"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return refuse("must begin with postgres:// or postgresql://");
        }
        // Parts of a password that was not encoded would be taken for a host, a path or a parameter.
        let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if rest[authority..].contains('@') || rest.contains('#') {
            return refuse("`/`, `?`, `#` and `@` in a user or password must be percent-encoded");
        }
        // Some of them would be dropped without a word.
        if text.contains(|c: char| c.is_ascii_control()) {
            return refuse("control characters must be percent-encoded");
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return refuse(format!("cannot be read: {error}")),
        };
        // As it is written: a URL's own path has lost its dots by now.
        let path = rest[authority..].split('?').next().unwrap_or_default();
        let parsed = DatabaseUrl::read(&url, path);
        drop(Zeroizing::new(String::from(url)));
        parsed
    }

    fn read(url: &Url, path: &str) -> Result<Self, Refusal> {
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return refuse("names no host");
        };
        if url.port() == Some(0) {
            return refuse("0 is not a port (1 to 65535)");
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Ok(endpoint) = Endpoint::new(host, url.port()) else {
            return refuse("the host is not a name or an address");
        };
        let mut read = DatabaseUrl {
            endpoint,
            user: filled(url.username(), "user")?,
            password: filled(url.password().unwrap_or_default(), "password")?.map(Secret::from),
            database: filled(path.trim_start_matches('/'), "database")?,
            application_name: None,
            ca_file: None,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" if value == "verify-full" => {}
                "sslmode" => return Err(weaker(&value)),
                "sslrootcert" => read.ca_file = Some(value.into_owned()),
                "application_name" => read.application_name = Some(value.into_owned()),
                other => return refuse(unknown(other)),
            }
        }
        Ok(read)
    }
}

fn weaker(mode: &str) -> Refusal {
    let known = ["disable", "allow", "prefer", "require", "verify-ca"].contains(&mode);
    let mode = if known { format!("sslmode={mode}") } else { "this sslmode".to_owned() };
    let message =
        format!("{mode} is refused: TLS is always verify-full, and a setting outside the code cannot weaken it");
    Refusal { code: "config.unsupported", message }
}

fn unknown(name: &str) -> String {
    let plain = (1..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let name = if plain { format!("the parameter `{name}`") } else { "a parameter".to_owned() };
    format!("{name} is not one of sslmode, sslrootcert and application_name")
}

fn filled(encoded: &str, what: &str) -> Result<Option<String>, Refusal> {
    match percent_decode_str(encoded).decode_utf8() {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.into_owned())),
        Err(_) => refuse(format!("the {what} is not UTF-8 once percent-decoded")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_part_is_read_and_percent_decoded() {
        let url = "postgresql://a%40b:p%2Fw%3A%23@Db.Example.com:5433/my%20db\
                   ?sslmode=verify-full&sslrootcert=/etc/ca%20s.pem&application_name=jobs";
        let read = DatabaseUrl::parse(url).unwrap();
        assert_eq!(read.endpoint, Endpoint::parse("db.example.com:5433").unwrap());
        assert_eq!(read.user.as_deref(), Some("a@b"));
        assert_eq!(read.password.unwrap().expose(), "p/w:#");
        assert_eq!(read.database.as_deref(), Some("my db"));
        assert_eq!(read.ca_file.as_deref(), Some("/etc/ca s.pem"));
        assert_eq!(read.application_name.as_deref(), Some("jobs"));

        let dots = DatabaseUrl::parse(" postgres://u:p@h/a/%2e%2E/../b\n").unwrap();
        assert_eq!(dots.database.as_deref(), Some("a/../../b"));

        let bare = DatabaseUrl::parse("postgres://[::1]").unwrap();
        assert_eq!(bare.endpoint, Endpoint::parse("::1").unwrap());
        assert!(bare.user.is_none() && bare.password.is_none() && bare.database.is_none());
    }

    #[test]
    fn what_it_cannot_use_is_refused_without_a_word_of_the_password() {
        let table = [
            ("", "config.url", "is not of the form"),
            ("hunter2", "config.url", "is not of the form"),
            ("mysql://u:hunter2@h/d", "config.url", "must begin with postgres://"),
            ("postgres:///d", "config.url", "names no host"),
            ("postgres://u:hunter2@/d", "config.url", "cannot be read"),
            ("postgres://u:hunter2@local host/d", "config.url", "cannot be read"),
            ("postgres://u:hunter2@h:99999/d", "config.url", "cannot be read"),
            ("postgres://u:hunter2@h:0/d", "config.url", "0 is not a port"),
            ("postgres://u:hunter2@%2Fvar%2Frun/d", "config.url", "host is not a name"),
            ("postgres://u:hunt/er2@h/d", "config.url", "percent-encoded"),
            ("postgres://u:5?hunter2@h/d", "config.url", "percent-encoded"),
            ("postgres://u:5#hunter2@h/d", "config.url", "percent-encoded"),
            ("postgres://u:hunter2@h/d#x", "config.url", "percent-encoded"),
            ("postgres://u:hunt\ter2@h/d", "config.url", "control characters must be percent-encoded"),
            ("postgres://u:hunter2\r\n@h/d", "config.url", "control characters must be percent-encoded"),
            ("postgres://%FF:hunter2@h/d", "config.url", "user is not UTF-8"),
            ("postgres://u:hunter2%FF@h/d", "config.url", "password is not UTF-8"),
            ("postgres://u:hunter2@h/d?sslmode=disable", "config.unsupported", "sslmode=disable is refused"),
            ("postgres://u:hunter2@h/d?sslmode=verify-ca", "config.unsupported", "sslmode=verify-ca is refused"),
            ("postgres://u:hunter2@h/d?sslmode=hunter2", "config.unsupported", "this sslmode is refused"),
            ("postgres://u:hunter2@h/d?options=-c%20x", "config.url", "the parameter `options` is not one of"),
            ("postgres://u:hunter2@h/d?hunter2", "config.url", "a parameter is not one of"),
        ];
        for (url, code, reason) in table {
            let refusal = DatabaseUrl::parse(url).unwrap_err();
            assert_eq!(refusal.code, code, "{url}");
            assert!(refusal.message.contains(reason), "{url}: {}", refusal.message);
            assert!(!refusal.message.contains("hunter2") && !refusal.message.contains("er2"), "{}", refusal.message);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_text_makes_it_panic_and_no_password_is_told(
            text in "\\PC{0,60}|postgres://[a-z:@/?#%\\[\\]&=0-9.]{0,60}",
            tail in "[a-z0-9:@/?#%\\[\\]&= ]{0,20}",
        ) {
            let _ = DatabaseUrl::parse(&text);
            let printed = format!("{:?}", DatabaseUrl::parse(&format!("postgres://u:Hunter2{tail}@h/d")));
            prop_assert!(!printed.contains("Hunter2"));
        }
    }
}

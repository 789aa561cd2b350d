//! What RDS Proxy says to PostgreSQL clients, and the frames it says it in.
//!
//! Source of codes and texts: "Troubleshooting for RDS Proxy", tables for PostgreSQL, in the Amazon RDS User Guide.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::fault::Kind;
use super::iam::TokenRefusal;
use super::limits::Limit;
use super::wire::{Frame, Texts};

/// The parameters a client may send at startup. Source: "Connecting to a database through RDS Proxy".
const ACCEPTED: [&str; 8] = [
    "user",
    "database",
    "application_name",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "extra_float_digits",
    "search_path",
];

/// A refusal of a login or of a request.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) token: Option<TokenRefusal>,
    pub(super) limit: Option<Limit>,
}

impl Refusal {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Refusal { code, text: text.into(), token: None, limit: None }
    }

    pub(super) fn token(user: &str, reason: TokenRefusal) -> Self {
        let text = format!(
            "The IAM authentication failed for the role {user}. Check the IAM token for this role and try again."
        );
        Refusal { token: Some(reason), ..Refusal::new("28P01", text) }
    }

    pub(super) fn password(user: &str) -> Self {
        Refusal::new("28P01", format!("The password that was provided for the role {user} is wrong."))
    }

    pub(super) fn unknown_user(user: &str) -> Self {
        let text = format!(
            "This RDS proxy has no credentials for the role {user}. Check the credentials for this role and try again."
        );
        Refusal::new("28000", text)
    }

    pub(super) fn tls_required() -> Self {
        Refusal::new("28000", "This RDS Proxy requires TLS connections.")
    }

    pub(super) fn iam_without_tls() -> Self {
        Refusal::new("28000", "IAM authentication is allowed only with SSL connections.")
    }

    pub(super) fn unsupported_authentication() -> Self {
        Refusal::new("28000", "RDS supports only IAM, MD5, or SCRAM authentication.")
    }

    pub(super) fn too_many_clients(limit: usize) -> Self {
        Refusal::limit(
            Limit::Clients,
            format!("The maximum number of client connections to the proxy exceeded {limit}."),
        )
    }

    pub(super) fn connection_rate(limit: u32) -> Self {
        Refusal::limit(Limit::ConnectionRate, format!("Rate of connection to proxy exceeded {limit}."))
    }

    pub(super) fn iam_rate() -> Self {
        Refusal::limit(Limit::IamRate, "The IAM authentication failed because of too many competing requests.")
    }

    fn limit(limit: Limit, text: impl Into<String>) -> Self {
        Refusal { limit: Some(limit), ..Refusal::new("53300", text) }
    }

    pub(super) fn borrow_timeout() -> Self {
        Refusal::new("08000", "Timed-out waiting to acquire database connection.")
    }

    pub(super) fn pinned_to_nothing() -> Self {
        Refusal::new("XX000", "Request returned an error: the database connection of this pinned session was closed.")
    }

    pub(super) fn shutdown(kind: Kind) -> Self {
        match kind {
            Kind::CrashShutdown => {
                Refusal::new("57P02", "terminating connection because of crash of another server process")
            }
            Kind::CannotConnectNow => Refusal::new("57P03", "the database system is shutting down"),
            _ => Refusal::new("57P01", "terminating connection due to administrator command"),
        }
    }

    fn unsupported_option(option: &str) -> Self {
        let text = match option {
            "options" => {
                "Feature not supported: RDS Proxy currently doesn\u{2019}t support command-line options.".to_owned()
            }
            "replication" => {
                "Feature not supported: RDS Proxy currently doesn\u{2019}t support streaming replication mode."
                    .to_owned()
            }
            _ => format!("Feature not supported: RDS Proxy currently doesn\u{2019}t support the option {option}."),
        };
        Refusal::new("0A000", text)
    }

    fn unsupported_protocol() -> Self {
        let text = "Feature not supported: RDS Proxy supports only version 3.0 of the PostgreSQL messaging protocol.";
        Refusal::new("0A000", text)
    }

    /// As an ErrorResponse of the given severity.
    pub(super) fn frame(&self, severity: &str) -> Frame {
        let mut body = BytesMut::new();
        for (field, text) in [(b'S', severity), (b'V', severity), (b'C', self.code), (b'M', &self.text)] {
            body.put_u8(field);
            put_text(&mut body, text);
        }
        body.put_u8(0);
        Frame::new(b'E', body)
    }
}

/// What the first packet of a connection asks for.
#[derive(Debug)]
pub(super) enum Opening {
    Tls,
    Gss,
    Cancel,
    Startup(Startup),
    Refused(Refusal),
}

/// What a client said about itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Startup {
    pub(super) user: String,
    pub(super) database: String,
    /// Everything but the two above, as it came.
    pub(super) parameters: BTreeMap<String, String>,
}

impl Opening {
    /// Reads the packet behind its length; `None` for what no client sends.
    pub(super) fn parse(packet: &Bytes) -> Option<Opening> {
        let (major, minor) = (u16::from_be_bytes([*packet.first()?, *packet.get(1)?]), packet.get(2..4)?);
        let minor = u16::from_be_bytes([minor[0], minor[1]]);
        match (major, minor) {
            (1234, 5678) => return Some(Opening::Cancel),
            (1234, 5679) => return Some(Opening::Tls),
            (1234, 5680) => return Some(Opening::Gss),
            (3, 0) => {}
            _ => return Some(Opening::Refused(Refusal::unsupported_protocol())),
        }
        let mut texts = Texts(packet.slice(4..));
        let mut text = || String::from_utf8(texts.next()?.to_vec()).ok();
        let mut parameters = BTreeMap::new();
        loop {
            let name = text()?;
            if name.is_empty() {
                break;
            }
            if !ACCEPTED.contains(&name.as_str()) {
                return Some(Opening::Refused(Refusal::unsupported_option(&name)));
            }
            parameters.insert(name, text()?);
        }
        // Like PostgreSQL: nothing follows the parameters, and an empty name is none.
        let mut named = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let user = named("user").filter(|_| texts.0.is_empty())?;
        let database = named("database").unwrap_or_else(|| user.clone());
        Some(Opening::Startup(Startup { user, database, parameters }))
    }
}

/// Asks for the next step of a login.
pub(super) fn authentication(step: i32, payload: &[u8]) -> Frame {
    let mut body = BytesMut::new();
    body.put_i32(step);
    body.put_slice(payload);
    Frame::new(b'R', body)
}

pub(super) fn parameter_status(name: &str, value: &str) -> Frame {
    let mut body = BytesMut::new();
    put_text(&mut body, name);
    put_text(&mut body, value);
    Frame::new(b'S', body)
}

/// A key nobody can cancel with: RDS Proxy does not support it.
pub(super) fn backend_key(session: u64) -> Frame {
    let mut body = BytesMut::new();
    body.put_u32(session as u32);
    body.put_u32(0);
    Frame::new(b'K', body)
}

pub(super) fn ready_for_query(status: u8) -> Frame {
    Frame::new(b'Z', Bytes::copy_from_slice(&[status]))
}

pub(super) fn sync() -> Frame {
    Frame::new(b'S', Bytes::new())
}

pub(super) fn terminate() -> Frame {
    Frame::new(b'X', Bytes::new())
}

/// The SQLSTATE in an ErrorResponse.
pub(super) fn sqlstate(error: &Frame) -> Option<Bytes> {
    error.texts().find(|field| field.first() == Some(&b'C')).map(|field| field.slice(1..))
}

fn put_text(body: &mut BytesMut, text: &str) {
    body.put_slice(text.as_bytes());
    body.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(version: u32, pairs: &[(&str, &str)]) -> Option<Opening> {
        let mut packet = BytesMut::new();
        packet.put_u32(version);
        for (name, value) in pairs {
            put_text(&mut packet, name);
            put_text(&mut packet, value);
        }
        packet.put_u8(0);
        Opening::parse(&packet.freeze())
    }

    #[test]
    fn a_startup_packet_with_accepted_parameters_is_understood() {
        let opening = startup(196_608, &[("user", "u"), ("TimeZone", "UTC")]);
        let Some(Opening::Startup(startup)) = opening else { panic!("{opening:?}") };
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("u", "u"));
        assert_eq!(startup.parameters["TimeZone"], "UTC");
    }

    #[test]
    fn a_packet_without_a_user_or_with_more_than_parameters_is_none_and_an_empty_database_is_the_user_s() {
        assert!(startup(196_608, &[("user", ""), ("database", "d")]).is_none());
        assert!(startup(196_608, &[("user", "u"), ("", "more")]).is_none());
        let opening = startup(196_608, &[("user", "u"), ("database", "")]);
        assert!(matches!(&opening, Some(Opening::Startup(startup)) if startup.database == "u"), "{opening:?}");
    }

    #[test]
    fn options_other_parameters_and_protocols_are_refused_with_the_documented_code() {
        for (version, pairs) in [
            (196_608, [("options", "-c a=b"), ("user", "u")]),
            (196_608, [("statement_timeout", "1"), ("user", "u")]),
            (196_608, [("replication", "database"), ("user", "u")]),
            (196_610, [("user", "u"), ("database", "d")]),
            (131_072, [("user", "u"), ("database", "d")]),
        ] {
            let opening = startup(version, &pairs);
            assert!(matches!(&opening, Some(Opening::Refused(refusal)) if refusal.code == "0A000"), "{opening:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_packet_makes_the_parser_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Opening::parse(&Bytes::from(bytes.clone()));
            let mut version = vec![0, 3, 0, 0];
            version.extend(bytes);
            let _ = Opening::parse(&Bytes::from(version));
        }
    }
}

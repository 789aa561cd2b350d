//! The IAM login token: a presigned `GET` for the service `rds-db`, good for 900 s, sent as a password.
//!
//! A pure function of its arguments; [`crate::token`] decides when to sign. Unlike the AWS SDK's helper it encodes the
//! user's name, which is signed as a query value like any other.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign as presign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};
use crate::outcome::Phase;
use crate::secret::Secret;

/// The longest life the service accepts; it refuses a token that asks for more.
const LIFE: Duration = Duration::from_secs(900);

/// All but the unreserved characters of RFC 3986: what SigV4 encodes in a query.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Signs the token with which `user` logs in to `host:port` in the quarter of an hour after `at`.
///
/// `host` and `port` are those of the endpoint as RDS knows it, whatever address is then connected to.
///
/// # Errors
/// `credentials.signing`, of no known cause: the signer refused its input. No secret is in the message.
///
/// # Sources
/// Form of the token: aws-sdk-rds `AuthTokenGenerator`, whose test vector is below.
pub(crate) fn sign(
    credentials: &Credentials,
    host: &str,
    port: u16,
    region: &str,
    user: &str,
    at: SystemTime,
) -> Result<Secret, Error> {
    let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let request = format!("https://{host}:{port}/?Action=connect&DBUser={}", utf8_percent_encode(user, RESERVED));

    let mut settings = SigningSettings::default();
    settings.expires_in = Some(LIFE);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(at)
        .settings(settings)
        .build()
        .map_err(refused)?
        .into();
    let signable =
        SignableRequest::new("GET", request.as_str(), std::iter::empty(), SignableBody::empty()).map_err(refused)?;
    let (instructions, _) = presign(signable, &parameters).map_err(refused)?.into_parts();

    // Room for everything at once: a string that grew would leave unwiped pieces of the token behind.
    let pairs = instructions.params();
    let room = pairs.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum::<usize>();
    let mut token = Zeroizing::new(String::with_capacity(request.len() + room));
    token.push_str(request.trim_start_matches("https://"));
    for (name, value) in pairs {
        token.push('&');
        token.push_str(name);
        token.push('=');
        token.extend(utf8_percent_encode(value, RESERVED));
    }
    Ok(Secret::from(std::mem::take(&mut *token)))
}

/// The signer's own errors name a field or an invalid URL, never a value of the credentials.
fn refused(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Credentials, "credentials.signing", "the login token could not be signed")
        .phase_of(Phase::Token)
        .caused_by(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::error::Error as _;
    use url::Url;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        access_key: String,
        secret_key: String,
        session_token: Option<String>,
        host: String,
        port: u16,
        region: String,
        user: String,
        at: u64,
        token: String,
    }

    /// Host with port, path and the decoded query in order: what a token says, however its pairs are arranged.
    fn meaning(token: &str) -> (String, String, Vec<(String, String)>) {
        let url = Url::parse(&format!("tcp://{token}")).expect("a token is a URL without its scheme");
        let mut pairs: Vec<_> = url.query_pairs().into_owned().collect();
        pairs.sort();
        (url[url::Position::BeforeHost..url::Position::AfterPort].to_owned(), url.path().to_owned(), pairs)
    }

    fn signature(token: &Secret) -> String {
        let (_, _, pairs) = meaning(token.expose());
        pairs.into_iter().find(|(name, _)| name == "X-Amz-Signature").expect("a token is signed").1
    }

    fn keys() -> Credentials {
        Credentials::new("akid", "secret", None, None, "test")
    }

    fn seconds(at: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(at)
    }

    #[test]
    fn a_token_is_the_one_the_aws_sdk_makes() {
        let host = "prod-instance.us-east-1.rds.amazonaws.com";
        let token = sign(&keys(), host, 3306, "us-east-1", "peccy", seconds(1_724_709_600)).unwrap();
        assert_eq!(
            token.expose(),
            "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=peccy\
             &X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request\
             &X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89"
        );
    }

    #[test]
    fn every_token_says_and_signs_what_botocore_says_and_signs() {
        let Vectors { vectors } = serde_json::from_str(include_str!("../tests/data/token_vectors.json")).unwrap();
        assert!(vectors.len() >= 200, "only {} vectors", vectors.len());
        for Vector { access_key, secret_key, session_token, host, port, region, user, at, token } in vectors {
            let credentials = Credentials::new(access_key, secret_key, session_token, None, "test");
            let ours = sign(&credentials, &host, port, &region, &user, seconds(at)).unwrap();
            assert_eq!(meaning(ours.expose()), meaning(&token), "user {user:?} at {host}:{port}, {at} s");
        }
    }

    #[test]
    fn parts_of_a_second_do_not_change_a_token() {
        let at = seconds(1_724_709_600);
        let late = at + Duration::from_millis(999);
        let [exact, late] = [at, late].map(|at| sign(&keys(), "localhost", 5432, "us-east-1", "app", at).unwrap());
        assert_eq!(exact.expose(), late.expose());
    }

    #[test]
    fn an_ipv6_host_is_bracketed_once() {
        let [bare, bracketed] = ["fd00::1", "[fd00::1]"]
            .map(|host| sign(&keys(), host, 5432, "us-east-1", "app", seconds(1_724_709_600)).unwrap());
        assert!(bare.expose().starts_with("[fd00::1]:5432/?"), "the host is {:?}", meaning(bare.expose()).0);
        assert_eq!(signature(&bare), signature(&bracketed));
    }

    #[test]
    fn a_host_that_is_none_is_an_error_without_secrets() {
        let credentials = Credentials::new("akid", "secret-key", Some("session-token".to_owned()), None, "test");
        let error = sign(&credentials, "not a host", 5432, "us-east-1", "app", seconds(0)).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Credentials, "credentials.signing"));
        assert_eq!(error.phase(), Some(Phase::Token));
        assert!(error.source().is_some());
        for text in [format!("{error:#}"), format!("{error:?}")] {
            assert!(!text.contains("secret-key") && !text.contains("session-token"), "{text}");
        }
    }
}

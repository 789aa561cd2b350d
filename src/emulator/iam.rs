//! Verification of IAM tokens, written from the rules of Signature Version 4 and apart from the signer it judges.
//!
//! Sources: "Create a signed AWS API request" (AWS IAM User Guide) for canonical request, scope and key; "IAM database
//! authentication" (Amazon RDS User Guide) for the life of a token and of the credentials behind it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// The longest life a token may claim.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(15 * 60);
/// How far in the future a token may be dated: clocks differ a little.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Credentials whose tokens the emulator accepts.
///
/// ```
/// use rds_proxy_pool::emulator::AccessKey;
///
/// let key = AccessKey::new("ASIAEXAMPLE", "a secret key").session_token("a session token");
/// assert!(!format!("{key:?}").contains("secret key"));
/// ```
#[derive(Clone, Debug)]
pub struct AccessKey {
    id: String,
    secret: Secret,
    session_token: Option<Secret>,
    expiry: Option<SystemTime>,
}

impl AccessKey {
    /// An access key without a session token that does not expire.
    pub fn new(id: impl Into<String>, secret: impl Into<Secret>) -> Self {
        AccessKey { id: id.into(), secret: secret.into(), session_token: None, expiry: None }
    }

    /// Tokens must carry this session token, as temporary credentials do.
    pub fn session_token(mut self, token: impl Into<Secret>) -> Self {
        self.session_token = Some(token.into());
        self
    }

    /// From this time on no token of these credentials is accepted, however young it is.
    pub fn expires_at(mut self, expiry: SystemTime) -> Self {
        self.expiry = Some(expiry);
        self
    }
}

/// Why the emulator refused a token. The client is told none of it: RDS Proxy has one text for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// It does not have the form of a token: a password, or a damaged one.
    #[error("not a token")]
    NotAToken,
    /// Signed for another host.
    #[error("signed for another host")]
    WrongHost,
    /// Signed for another port.
    #[error("signed for another port")]
    WrongPort,
    /// Signed for another database user.
    #[error("signed for another user")]
    WrongUser,
    /// Signed for another region or service.
    #[error("signed for another region or service")]
    WrongScope,
    /// Signed with an access key the emulator does not know.
    #[error("signed with an unknown access key")]
    UnknownKey,
    /// The session token is missing, or is another.
    #[error("session token missing or wrong")]
    WrongSessionToken,
    /// It claims a life of more than 15 minutes.
    #[error("valid for more than 15 minutes")]
    TooLongLived,
    /// Dated more than five minutes ahead.
    #[error("dated in the future")]
    NotYetValid,
    /// Older than it may be.
    #[error("expired")]
    Expired,
    /// Its credentials have expired.
    #[error("its credentials have expired")]
    CredentialsExpired,
    /// The signature is wrong: another secret key, or something was changed after signing.
    #[error("wrong signature")]
    WrongSignature,
}

/// What a token must have been signed for.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) region: String,
    /// How long a token is accepted, if that is less than it claims.
    pub(super) token_life: Duration,
}

/// Judges a token presented by `user` at `now`.
pub(super) fn verify(
    token: &str,
    user: &str,
    audience: &Audience,
    keys: &[AccessKey],
    now: SystemTime,
) -> Result<(), TokenRefusal> {
    let Parts { host, port, pairs } = Parts::of(token).ok_or(TokenRefusal::NotAToken)?;
    let value = |name: &str| {
        let mut found = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.next().filter(|_| found.next().is_none()).ok_or(TokenRefusal::NotAToken)
    };
    if value("Action")? != "connect" || value("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(TokenRefusal::NotAToken);
    }
    if value("X-Amz-SignedHeaders")? != "host" {
        return Err(TokenRefusal::NotAToken);
    }
    if !host.eq_ignore_ascii_case(&audience.host) {
        return Err(TokenRefusal::WrongHost);
    }
    if port != audience.port {
        return Err(TokenRefusal::WrongPort);
    }
    if value("DBUser")? != user {
        return Err(TokenRefusal::WrongUser);
    }

    let date = value("X-Amz-Date")?;
    let signed_at = parse_date(date).ok_or(TokenRefusal::NotAToken)?;
    let (key_id, scope) = value("X-Amz-Credential")?.split_once('/').ok_or(TokenRefusal::NotAToken)?;
    let day = date.get(..8).ok_or(TokenRefusal::NotAToken)?;
    if scope != format!("{day}/{}/rds-db/aws4_request", audience.region) {
        return Err(TokenRefusal::WrongScope);
    }
    let key = keys.iter().find(|key| key.id == key_id).ok_or(TokenRefusal::UnknownKey)?;
    let session_token = value("X-Amz-Security-Token").ok();
    if session_token != key.session_token.as_ref().map(Secret::expose) {
        return Err(TokenRefusal::WrongSessionToken);
    }

    let signature = value("X-Amz-Signature")?;
    // Signature Version 4 writes its digests in lower case.
    let signature = unhex(signature).filter(|bytes| hex(bytes) == signature).ok_or(TokenRefusal::NotAToken)?;
    let request = canonical_request(&pairs, &format!("{host}:{port}"));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let signing_key = signing_key(&key.secret, day, &audience.region);
    mac(&signing_key, to_sign.as_bytes()).verify_slice(&signature).map_err(|_| TokenRefusal::WrongSignature)?;

    let life: u64 = value("X-Amz-Expires")?.parse().map_err(|_| TokenRefusal::NotAToken)?;
    if Duration::from_secs(life) > LONGEST_LIFE {
        return Err(TokenRefusal::TooLongLived);
    }
    if signed_at > now + CLOCK_SKEW {
        return Err(TokenRefusal::NotYetValid);
    }
    if now >= signed_at + Duration::from_secs(life).min(audience.token_life) {
        return Err(TokenRefusal::Expired);
    }
    if key.expiry.is_some_and(|expiry| now >= expiry) {
        return Err(TokenRefusal::CredentialsExpired);
    }
    Ok(())
}

struct Parts<'t> {
    host: &'t str,
    port: u16,
    /// Decoded, in the order they came.
    pairs: Vec<(String, String)>,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Option<Self> {
        let (authority, query) = token.split_once("/?")?;
        let (host, port) = authority.rsplit_once(':')?;
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            Some((decode(name)?, decode(value)?))
        };
        let pairs = query.split('&').map(pair).collect::<Option<_>>()?;
        // The text is what was signed, so there is one for each port.
        let port = port.parse().ok().filter(|number: &u16| number.to_string() == port)?;
        Some(Parts { host, port, pairs })
    }
}

fn canonical_request(pairs: &[(String, String)], host: &str) -> String {
    let signed = pairs.iter().filter(|(name, _)| name != "X-Amz-Signature");
    let mut encoded: Vec<_> = signed.map(|(name, value)| (encode(name), encode(value))).collect();
    encoded.sort();
    let query: Vec<_> = encoded.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let payload = hex(&Sha256::digest(b""));
    format!("GET\n/\n{}\nhost:{host}\n\nhost\n{payload}", query.join("&"))
}

fn signing_key(secret: &Secret, day: &str, region: &str) -> Vec<u8> {
    let first = Secret::from(format!("AWS4{}", secret.expose()));
    [day, region, "rds-db", "aws4_request"].iter().fold(first.expose().as_bytes().to_vec(), |key, part| {
        mac(&key, part.as_bytes()).finalize().into_bytes().to_vec()
    })
}

pub(super) fn mac(key: &[u8], message: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac
}

/// Percent-decoding; a `+` is a plus, as everywhere in Signature Version 4.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.extend(unhex(digits)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// `20240826T220000Z` as a time; `None` for anything that is no date.
fn parse_date(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Days since 1970-01-01, counted in years that begin in March so that leap days come last.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let days = 365 * shifted_year + leap_days(shifted_year) + (153 * shifted_month + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the AWS SDK for Rust: key `akid`, secret `secret`, signed at 2024-08-26T22:00:00Z.
    const TOKEN: &str = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=peccy&\
        X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request&\
        X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&\
        X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89";

    fn judge(token: &str, after: Duration) -> Result<(), TokenRefusal> {
        let audience = Audience {
            host: "prod-instance.us-east-1.rds.amazonaws.com".to_owned(),
            port: 3306,
            region: "us-east-1".to_owned(),
            token_life: LONGEST_LIFE,
        };
        verify(token, "peccy", &audience, &[AccessKey::new("akid", "secret")], signed_at() + after)
    }

    fn signed_at() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_724_709_600)
    }

    #[test]
    fn the_sdk_s_vector_is_accepted_for_exactly_fifteen_minutes() {
        assert_eq!(judge(TOKEN, Duration::ZERO), Ok(()));
        assert_eq!(judge(TOKEN, Duration::from_secs(899)), Ok(()));
        assert_eq!(judge(TOKEN, Duration::from_secs(900)), Err(TokenRefusal::Expired));
    }

    #[test]
    fn every_change_to_a_token_is_refused_for_what_it_is() {
        let cases = [
            ("prod-instance", "test-instance", TokenRefusal::WrongHost),
            (":3306", ":3307", TokenRefusal::WrongPort),
            ("DBUser=peccy", "DBUser=admin", TokenRefusal::WrongUser),
            ("us-east-1%2Frds-db", "us-east-2%2Frds-db", TokenRefusal::WrongScope),
            ("us-east-1%2Frds-db", "us-east-1%2Fs3", TokenRefusal::WrongScope),
            ("akid", "somebody", TokenRefusal::UnknownKey),
            ("Expires=900", "Expires=901", TokenRefusal::WrongSignature),
            ("Expires=900", "Expires=800", TokenRefusal::WrongSignature),
            ("T220000Z&", "T220001Z&", TokenRefusal::WrongSignature),
            ("ad89", "ad88", TokenRefusal::WrongSignature),
            ("&X-Amz-Date", "&Extra=1&X-Amz-Date", TokenRefusal::WrongSignature),
            ("&DBUser=peccy", "&DBUser=peccy&DBUser=peccy", TokenRefusal::NotAToken),
            ("Action=connect", "Action=drop", TokenRefusal::NotAToken),
            ("SignedHeaders=host", "SignedHeaders=", TokenRefusal::NotAToken),
            ("&X-Amz-Expires", "&X-Amz-Security-Token=x&X-Amz-Expires", TokenRefusal::WrongSessionToken),
            ("/?", "/", TokenRefusal::NotAToken),
            ("ad89", "ad8", TokenRefusal::NotAToken),
            ("ad89", "AD89", TokenRefusal::NotAToken),
            (":3306", ":+3306", TokenRefusal::NotAToken),
            (":3306", ":03306", TokenRefusal::NotAToken),
            ("peccy", "%zz", TokenRefusal::NotAToken),
        ];
        for (from, to, refusal) in cases {
            assert!(TOKEN.contains(from), "{from}");
            assert_eq!(judge(&TOKEN.replacen(from, to, 1), Duration::ZERO), Err(refusal), "{from} -> {to}");
        }
        assert_eq!(judge("a password", Duration::ZERO), Err(TokenRefusal::NotAToken));
        assert_eq!(judge("", Duration::ZERO), Err(TokenRefusal::NotAToken));
    }

    #[test]
    fn expired_credentials_end_a_young_token_and_a_future_date_is_refused() {
        let audience = Audience {
            host: "prod-instance.us-east-1.rds.amazonaws.com".to_owned(),
            port: 3306,
            region: "us-east-1".to_owned(),
            token_life: LONGEST_LIFE,
        };
        let expiring = AccessKey::new("akid", "secret").expires_at(signed_at() + Duration::from_secs(60));
        let at = |at| verify(TOKEN, "peccy", &audience, std::slice::from_ref(&expiring), at);
        assert_eq!(at(signed_at() + Duration::from_secs(59)), Ok(()));
        assert_eq!(at(signed_at() + Duration::from_secs(60)), Err(TokenRefusal::CredentialsExpired));
        assert_eq!(at(signed_at() - Duration::from_secs(301)), Err(TokenRefusal::NotYetValid));
        let wrong = AccessKey::new("akid", "another");
        assert_eq!(verify(TOKEN, "peccy", &audience, &[wrong], signed_at()), Err(TokenRefusal::WrongSignature));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_verifier_panic(token in ".{0,300}", date in "[0-9TZ]{16}") {
            let _ = judge(&token, Duration::ZERO);
            let _ = judge(&TOKEN.replace("20240826T220000Z", &date), Duration::ZERO);
            let _ = parse_date(&date);
        }
    }
}

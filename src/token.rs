//! The IAM token: signed when a connection needs one, kept while it is certain to be good, one signer at a time.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use futures_util::future::{Either, select};
use tokio::sync::Mutex;

use crate::clock::{Clock, Gap, Reading};
use crate::error::{Error, ErrorKind};
use crate::outcome::Phase;
use crate::secret::Secret;
use crate::sign::sign;

/// A token is accepted for 15 minutes. Source: Amazon RDS User Guide, IAM database authentication.
const VALIDITY: Duration = Duration::from_secs(15 * 60);
/// Kept back for the login itself and for clocks that disagree a little.
const RESERVE: Duration = Duration::from_secs(60);

/// How long a caller waits for another who is signing. That one's future may be one that nobody polls.
const SIGNER_PATIENCE: Duration = Duration::from_secs(1);

/// A signed token and what is known of its life.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: Secret,
    signed_at: Reading,
    life: Duration,
    serial: u64,
    evidence: Evidence,
}

/// What the credentials themselves tell about a refusal.
#[derive(Clone, Copy, Debug)]
struct Evidence {
    expiry: Option<SystemTime>,
    session_token_missing: bool,
}

impl Token {
    /// Whether a login that starts now is certain to present it in time.
    ///
    /// A wall clock that was set back makes it unfit: it may then be dated in the server's future.
    pub(crate) fn is_good_at(&self, now: Reading) -> bool {
        matches!(now.gap_since(self.signed_at), Gap::Forward(age) if age < self.life)
    }
}

/// Whether a token was at hand or was signed for this very login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Cached,
    Signed,
}

/// What a token is signed for.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) region: String,
    pub(crate) user: String,
}

/// Hands out tokens; one is being signed at a time, unless that takes long.
#[derive(Debug)]
pub(crate) struct TokenCache {
    provider: SharedCredentialsProvider,
    login: Login,
    cached: Mutex<Option<Token>>,
    signed: AtomicU64,
}

impl TokenCache {
    pub(crate) fn new(provider: SharedCredentialsProvider, login: Login) -> Self {
        TokenCache { provider, login, cached: Mutex::new(None), signed: AtomicU64::new(0) }
    }

    /// How many tokens have been signed.
    pub(crate) fn signed(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// A token that a login starting now can present; never the `refused` one.
    ///
    /// Dropping the future lets the next caller sign.
    pub(crate) async fn get(&self, clock: &dyn Clock, refused: Option<&Token>) -> Result<(Token, Origin), Error> {
        let patience = clock.sleep_until(clock.monotonic() + SIGNER_PATIENCE);
        let Either::Left((mut cached, _)) = select(pin!(self.cached.lock()), patience).await else {
            return Ok((self.sign(clock).await?, Origin::Signed));
        };
        if let Some(refused) = refused {
            cached.take_if(|token| token.serial == refused.serial);
        }
        if let Some(token) = cached.as_ref().filter(|token| token.is_good_at(clock.now())) {
            return Ok((token.clone(), Origin::Cached));
        }
        *cached = None;
        let token = self.sign(clock).await?;
        if token.is_good_at(clock.now()) {
            *cached = Some(token.clone());
        }
        Ok((token, Origin::Signed))
    }

    pub(crate) async fn sign(&self, clock: &dyn Clock) -> Result<Token, Error> {
        let credentials = self.provider.provide_credentials().await.map_err(not_provided)?;
        let now = clock.now();
        let life = usable_life(&credentials, now.wall)?;
        let Login { host, port, region, user } = &self.login;
        let text = sign(&credentials, host, *port, region, user, now.wall)?;
        let serial = self.signed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(usable_s = life.as_secs(), "signed an IAM token");
        let temporary = credentials.access_key_id().starts_with("ASIA");
        let evidence = Evidence {
            expiry: credentials.expiry(),
            session_token_missing: temporary && credentials.session_token().is_none(),
        };
        Ok(Token { text, signed_at: now, life, serial, evidence })
    }

    /// What may be wrong when even a freshly signed token is refused, the likeliest first.
    ///
    /// The proxy has one text for all of it, so this lists candidates and what can be told from here.
    pub(crate) fn refusal_hint(&self, token: &Token, now: SystemTime, region_from_host: Option<&str>) -> String {
        let Login { host, port, region, user } = &self.login;
        let mut candidates = Vec::new();
        if token.evidence.session_token_missing {
            candidates.push("the access key is temporary but AWS_SESSION_TOKEN is missing".to_owned());
        }
        if region_from_host.is_some_and(|from_host| from_host != region) {
            candidates.push(format!("the token is signed for region {region}, the endpoint's name says another"));
        }
        candidates.push(format!(
            "the role lacks rds-db:connect on arn:aws:rds-db:{region}:<account>:dbuser:<prx-… of the proxy, or the \
             resource id of the database>/{user}"
        ));
        candidates.push(format!("the user is not exactly {user:?}, or the proxy has no secret or IAM setting for it"));
        candidates.push(format!("the endpoint is not exactly {host}:{port} (a CNAME cannot be signed for)"));
        match token.evidence.expiry {
            Some(expiry) if expiry <= now => candidates.insert(0, "the credentials have expired".to_owned()),
            Some(_) => {}
            None => candidates.push("the credentials have expired or were revoked".to_owned()),
        }
        candidates.push("this machine's clock is minutes off".to_owned());
        format!("a freshly signed token was refused; likeliest first: {}", candidates.join("; "))
    }
}

/// How long a token of these credentials can be used: both lives end it, less the reserve.
fn usable_life(credentials: &Credentials, now: SystemTime) -> Result<Duration, Error> {
    let Some(expiry) = credentials.expiry() else {
        return Ok(VALIDITY - RESERVE);
    };
    match expiry.duration_since(now) {
        Ok(left) if !left.is_zero() => Ok(left.min(VALIDITY).saturating_sub(RESERVE)),
        _ => Err(Error::new(ErrorKind::Credentials, "credentials.expired", "the AWS credentials have expired")
            .phase_of(Phase::Token)
            .hint_of("the credentials provider returned credentials past their own expiry; let it refresh them")),
    }
}

fn not_provided(error: CredentialsError) -> Error {
    let (code, hint) = match &error {
        CredentialsError::CredentialsNotLoaded(_) => (
            "credentials.missing",
            "without DB_PASSWORD the pool logs in by IAM and needs AWS credentials; on Lambda they are in the \
             environment, under SnapStart and elsewhere use the feature aws-config or your own provider",
        ),
        CredentialsError::InvalidConfiguration(_) => ("credentials.invalid", "mend the provider's configuration"),
        _ => ("credentials.provider", "the credentials provider failed; it may do better later"),
    };
    Error::new(ErrorKind::Credentials, code, "no AWS credentials").phase_of(Phase::Token).hint_of(hint).caused_by(error)
}

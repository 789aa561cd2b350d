//! One attempt to connect: a token that is good, a copy of the options that carries it, TLS, login, a tuned socket.

use std::time::Instant;

use aws_credential_types::provider::SharedCredentialsProvider;
use sqlx_core::connection::ConnectOptions;
use sqlx_core::error::Error as SqlxError;

use crate::attend::{Bounds, Ended, attend};
use crate::clock::Clock;
use crate::config::{Auth, ProxyConfig};
use crate::credentials::EnvironmentCredentials;
use crate::engine::{Engine, Options};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Phase, Reaction, Verdict};
use crate::secret::Secret;
use crate::socket::{self, ConnectPhase, ConnectProgress, ConnectTimes, DriverSocket, Target, connect_watched};
use crate::token::{Login, Origin, Token, TokenCache};

/// Opens connections for one pool.
pub(crate) struct Connector<DB: Engine> {
    options: Options<DB>,
    port: u16,
    config: ProxyConfig,
    key: Key,
}

/// What opens the door.
enum Key {
    Password(Secret),
    Iam(Box<TokenCache>),
}

/// A new connection.
pub(crate) struct Connected<DB: Engine> {
    pub(crate) connection: DB::Connection,
    pub(crate) socket: Option<DriverSocket>,
    pub(crate) times: ConnectTimes,
}

/// An attempt that failed. Nothing of the user's was sent.
pub(crate) struct Refused {
    pub(crate) error: Error,
    pub(crate) reaction: Reaction,
    /// The token the server turned down, if that is what happened.
    pub(crate) token: Option<Token>,
}

impl<DB: Engine> Connector<DB> {
    pub(crate) fn new(config: &ProxyConfig) -> Result<Self, Error> {
        let endpoint = config.endpoint();
        let port = endpoint.port().unwrap_or(DB::DEFAULT_PORT);
        let key = match config.auth() {
            Auth::Password(password) => Key::Password(password.clone()),
            Auth::Iam => {
                let region = config.region().ok_or_else(|| {
                    let message = "AWS_REGION: the endpoint's name tells no region and none is set";
                    Error::config("config.missing", message)
                })?;
                let login = Login {
                    host: endpoint.host().to_owned(),
                    port,
                    region: region.to_owned(),
                    user: config.user().to_owned(),
                };
                let environment = || SharedCredentialsProvider::new(EnvironmentCredentials);
                let provider = config.credentials_provider().unwrap_or_else(environment);
                Key::Iam(Box::new(TokenCache::new(provider, login)))
            }
        };
        Ok(Connector { options: DB::options(config)?, port, config: config.clone(), key })
    }

    pub(crate) fn tokens_signed(&self) -> u64 {
        match &self.key {
            Key::Password(_) => 0,
            Key::Iam(tokens) => tokens.signed(),
        }
    }

    /// Options that carry a secret good for now.
    pub(crate) async fn fresh_options(&self, clock: &dyn Clock) -> Result<Options<DB>, Error> {
        match &self.key {
            Key::Password(password) => Ok(DB::with_password(&self.options, password.expose())),
            Key::Iam(tokens) => {
                let token = tokens.sign(clock).await?;
                Ok(DB::with_password(&self.options, token.text.expose()))
            }
        }
    }

    /// Gets a token and logs in by `until`, the latter within the connect timeout; never with the token that was `refused`
    /// before.
    pub(crate) async fn attempt(
        &self,
        clock: &dyn Clock,
        until: Instant,
        refused: Option<&Token>,
    ) -> Result<Connected<DB>, Refused> {
        let (options, token) = match &self.key {
            Key::Password(password) => (DB::with_password(&self.options, password.expose()), None),
            Key::Iam(tokens) => {
                let (token, origin) = self.token(tokens, clock, until, refused).await?;
                (DB::with_password(&self.options, token.text.expose()), Some((&**tokens, token, origin)))
            }
        };
        let progress = ConnectProgress::default();
        let host = self.config.endpoint().host();
        let now = clock.monotonic();
        let until = until.min(now + self.config.connect_timeout());
        // A packet may be lost, and the kernel is in no hurry to send it again: that leaves time for another.
        let syn_limit = self.config.syn_timeout().min(until.saturating_duration_since(now) / 2);
        let target = Target { host, port: self.port, syn_limit };
        let bounds = Bounds { until: Some(until), ..Bounds::default() };
        match attend(clock, bounds, connect_watched(options.connect(), target, clock, &progress)).await {
            Ended::Answer(socket::Connected { output, socket, times }) => match output {
                Ok(connection) => Ok(Connected { connection, socket, times }),
                Err(error) => Err(self.explain(error, phase(&progress), clock, token, refused.is_none())),
            },
            Ended::TimedOut | Ended::Unreachable => {
                let error = Error::new(ErrorKind::Connect, "connect.slow", "one attempt to connect took too long");
                Err(Refused::new(error.phase_of(phase(&progress)), Reaction::Reconnect))
            }
        }
    }

    async fn token(
        &self,
        tokens: &TokenCache,
        clock: &dyn Clock,
        until: Instant,
        refused: Option<&Token>,
    ) -> Result<(Token, Origin), Refused> {
        let bounds = Bounds { until: Some(until), ..Bounds::default() };
        match attend(clock, bounds, tokens.get(clock, refused)).await {
            Ended::Answer(Ok(token)) => Ok(token),
            Ended::Answer(Err(error)) => {
                let passing = error.code() == "credentials.provider";
                Err(Refused::new(error, if passing { Reaction::BackOff } else { Reaction::Surface }))
            }
            Ended::TimedOut | Ended::Unreachable => {
                let error = Error::new(ErrorKind::Credentials, "credentials.slow", "no AWS credentials in time");
                Err(Refused::new(error.phase_of(Phase::Token), Reaction::BackOff))
            }
        }
    }

    fn explain(
        &self,
        error: SqlxError,
        phase: Phase,
        clock: &dyn Clock,
        token: Option<(&TokenCache, Token, Origin)>,
        first: bool,
    ) -> Refused {
        let Verdict { kind, code, mut reaction, hint, .. } = DB::judge_connect(&error);
        let message = match kind {
            ErrorKind::Auth => "the login was refused",
            ErrorKind::Throttled => "the server is at a limit",
            _ => "connecting failed",
        };
        let mut ours = Error::new(kind, code, message).phase_of(phase);
        let mut hint = hint.map(str::to_owned);
        let mut turned_down = None;
        if reaction == Reaction::NewToken {
            match token {
                // It was good when it was taken from the cache, or it aged while the process was frozen. The one that
                // follows was signed from fresh credentials, by this call or by another: there is no use in a third.
                Some((_, token, origin)) if first && (origin == Origin::Cached || !token.is_good_at(clock.now())) => {
                    turned_down = Some(token);
                }
                Some((tokens, token, _)) => {
                    reaction = Reaction::Surface;
                    let from_host = self.config.endpoint().region();
                    hint = Some(tokens.refusal_hint(&token, clock.now().wall, from_host));
                }
                None => reaction = Reaction::Surface,
            }
        }
        if let Some(hint) = hint {
            ours = ours.hint_of(hint);
        }
        Refused { error: ours.caused_by_driver(error), reaction, token: turned_down }
    }
}

impl Refused {
    fn new(error: Error, reaction: Reaction) -> Self {
        Refused { error, reaction, token: None }
    }
}

fn phase(progress: &ConnectProgress) -> Phase {
    match progress.phase() {
        Some(ConnectPhase::Dns) => Phase::Dns,
        Some(ConnectPhase::Tcp) => Phase::Tcp,
        Some(ConnectPhase::Login) | None => Phase::Login,
    }
}

//! From what was given to what holds: every check that is made of a configuration.

use std::ffi::OsString;
use std::sync::Arc;

use super::builder::{Ca, Given, Name, Pem, ProxyConfigBuilder};
use super::database_url::DatabaseUrl;
use super::endpoint::{Endpoint, shown};
use super::markers::check_table;
use super::tuning::{CALL_TIMEOUT, within};
use super::{Auth, ProxyConfig, Tls, env};
use crate::clock::SystemClock;
use crate::error::Error;
use crate::secret::Secret;

type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

const CONNECTIONS: usize = 1000;
/// What `max_connections` exceeds `max_idle` by where nobody says.
const SPARE: usize = 3;

fn invalid(name: &Name, why: impl std::fmt::Display) -> Error {
    Error::config("config.invalid", format!("{name}: {why}"))
}

impl ProxyConfigBuilder {
    pub(super) fn build_in(mut self, lookup: Lookup<'_>) -> Result<ProxyConfig, Error> {
        let mut url = self.url()?;
        let endpoint = self.checked_endpoint(url.as_ref())?;
        if let Some(Given { name, value }) = &mut url {
            let from_url = |part: Option<String>| part.map(|value| Given { name: name.clone(), value });
            self.user = self.user.or_else(|| from_url(value.user.take()));
            self.database = self.database.or_else(|| from_url(value.database.take()));
            self.application_name = self.application_name.or_else(|| from_url(value.application_name.take()));
            let ca = |path: String| Given { name: name.clone(), value: Ca::File(path.into()) };
            self.ca = self.ca.or_else(|| value.ca_file.take().map(ca));
            let password = |value| Given { name: name.clone(), value };
            self.password = self.password.or_else(|| value.password.take().map(password));
        }
        let from = url.map(|url| url.name);
        let user = self.required(self.user.as_ref(), ["user", "DB_USER"], from.as_ref())?;
        let database = self.required(self.database.as_ref(), ["database", "DB_NAME"], from.as_ref())?;
        let auth = self.auth(from.as_ref())?;
        let tls = match (&self.weakened, &auth) {
            (None, _) => Tls::VerifyFull,
            (Some(Given { name, .. }), Auth::Iam) => {
                let why = "refused together with IAM, whose token would be open to whoever is on the way";
                let message = format!("{name}: {why}; add the authority with ca_file, or use a password");
                return Err(Error::config("config.conflict", message));
            }
            (Some(weakened), Auth::Password(_)) => weakened.value,
        };
        let application_name = self.checked_application_name()?;
        let region = self.checked_region(&endpoint, lookup)?;
        if let Some(Given { name, value }) = &self.call_timeout {
            within(&name.to_string(), *value, &CALL_TIMEOUT)?;
        }
        self.tuning.check()?;
        self.markers.check()?;
        let once_table = self.once_table.take().unwrap_or_else(|| "rds_proxy_pool_once".to_owned());
        check_table("once_table", &once_table)?;
        let (max_idle, max_connections) = self.sizes(lookup)?;
        Ok(ProxyConfig {
            endpoint,
            user,
            database,
            auth,
            provider: self.provider,
            region,
            access: self.access,
            ca: self.ca.map(load).transpose()?,
            tls,
            application_name,
            call_timeout: self.call_timeout.map(|given| given.value),
            max_idle,
            max_connections,
            tuning: self.tuning,
            markers: self.markers,
            once_table,
            split_messages: self.split_messages,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
        })
    }

    /// The URL, if it counts: one from the environment gives way to an endpoint.
    fn url(&self) -> Result<Option<Given<DatabaseUrl>>, Error> {
        let Some(Given { name, value }) = &self.database_url else { return Ok(None) };
        match (name, &self.endpoint) {
            (Name::Variable(_), Some(_)) => return Ok(None),
            (_, Some(endpoint)) => {
                let message = format!("{name}: {} is set as well; give one of them", endpoint.name);
                return Err(Error::config("config.conflict", message));
            }
            (_, None) => {}
        }
        match DatabaseUrl::parse(value.expose()) {
            Ok(value) => Ok(Some(Given { name: name.clone(), value })),
            Err(refusal) => Err(Error::config(refusal.code, format!("{name}: {}", refusal.message))),
        }
    }

    /// What is not there, by the name its user would give it.
    fn missing(&self, [setter, variable]: [&str; 2]) -> Error {
        let message = match &self.variables {
            Some(prefix) => format!("{prefix}{variable}: not set"),
            None => format!("{setter}: not set"),
        };
        Error::config("config.missing", message)
    }

    fn checked_endpoint(&self, url: Option<&Given<DatabaseUrl>>) -> Result<Endpoint, Error> {
        let (name, endpoint) = match (&self.endpoint, url) {
            (Some(Given { name, value }), _) => (name, Endpoint::parse(value).map_err(|why| invalid(name, why))?),
            (None, Some(url)) => (&url.name, url.value.endpoint.clone()),
            (None, None) => return Err(self.missing(["endpoint", "RDS_PROXY_ENDPOINT"])),
        };
        let Some(port) = &self.port else { return Ok(endpoint) };
        within(&port.name.to_string(), port.value, &(1..=u16::MAX))?;
        match endpoint.port() {
            Some(other) if other != port.value => {
                let message = format!("{}: {} is not the port {other} in {name}; give one", port.name, port.value);
                Err(Error::config("config.conflict", message))
            }
            _ => Ok(endpoint.with_port(Some(port.value))),
        }
    }

    fn required(
        &self,
        given: Option<&Given<String>>,
        names: [&'static str; 2],
        url: Option<&Name>,
    ) -> Result<String, Error> {
        match (given, url) {
            (Some(Given { name, value }), _) => match value {
                empty if empty.is_empty() => Err(invalid(name, "is empty")),
                nul if nul.contains('\0') => Err(invalid(name, format_args!("the {} holds a NUL byte", names[0]))),
                value => Ok(value.clone()),
            },
            (None, Some(url)) => Err(Error::config("config.missing", format!("{url}: names no {}", names[0]))),
            (None, None) => Err(self.missing(names)),
        }
    }

    fn auth(&self, url: Option<&Name>) -> Result<Auth, Error> {
        match (&self.password, url) {
            (_, _) if self.iam => Ok(Auth::Iam),
            (Some(Given { name, value }), _) => checked_password(name, value).map(Auth::Password),
            (None, Some(url)) => {
                let message =
                    format!("{url}: names no password, and IAM is used with a URL only where code asks for it");
                Err(Error::config("config.missing", message))
            }
            (None, None) => Ok(Auth::Iam),
        }
    }

    fn checked_application_name(&self) -> Result<Option<String>, Error> {
        let Some(Given { name, value }) = &self.application_name else { return Ok(None) };
        if value.contains('\0') {
            return Err(invalid(name, "the application name holds a NUL byte"));
        }
        if value.len() > 63 {
            let message = format!("{name}: {} is {} bytes long, outside 0..=63", shown(value), value.len());
            return Err(Error::config("config.range", message));
        }
        Ok(Some(value.clone()))
    }

    fn checked_region(&self, endpoint: &Endpoint, lookup: Lookup<'_>) -> Result<Option<String>, Error> {
        let given = match (&self.region, endpoint.region()) {
            (Some(given), _) => given.clone(),
            (None, Some(region)) => return Ok(Some(region.to_owned())),
            (None, None) => match env::text("AWS_REGION", lookup)?.filter(|text| !text.trim().is_empty()) {
                Some(value) => Given { name: Name::Variable("AWS_REGION".to_owned()), value },
                None => return Ok(None),
            },
        };
        let region = given.value.trim();
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || !region.bytes().all(legal) {
            return Err(invalid(&given.name, format_args!("{} is not a region such as eu-west-1", shown(region))));
        }
        Ok(Some(region.to_owned()))
    }

    /// `max_idle` and `max_connections`. A default never makes the other one illegal.
    fn sizes(&self, lookup: Lookup<'_>) -> Result<(usize, usize), Error> {
        if let Some(count) = self.max_connections {
            within("max_connections", count, &(1..=CONNECTIONS))?;
        }
        let most = self.max_connections.unwrap_or(CONNECTIONS);
        let max_idle = self.max_idle.unwrap_or_else(|| env::concurrency(lookup).min(most));
        within("max_idle", max_idle, &(0..=CONNECTIONS))?;
        let max_connections = self.max_connections.unwrap_or_else(|| (max_idle + SPARE).min(CONNECTIONS));
        if max_connections < max_idle {
            let range = format!("{max_idle}..={CONNECTIONS} (max_idle is {max_idle})");
            let message = format!("max_connections: {max_connections} is outside {range}");
            return Err(Error::config("config.range", message));
        }
        Ok((max_idle, max_connections))
    }
}

fn checked_password(name: &Name, password: &Secret) -> Result<Secret, Error> {
    match password.expose() {
        "" => Err(invalid(name, "the password is empty; give none to log in by IAM")),
        text if text.contains('\0') => Err(invalid(name, "the password holds a NUL byte")),
        _ => Ok(password.clone()),
    }
}

/// The certificates themselves; at least one.
fn load(Given { name, value }: Given<Ca>) -> Result<Pem, Error> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let (pem, place) = match value {
        Ca::Pem(Pem(pem)) => (pem, "it".to_owned()),
        Ca::File(path) => {
            let place = format!("{path:?}");
            let unread = |error| Error::config("config.file", format!("{name}: cannot read {place}: {error}"));
            (std::fs::read(&path).map_err(unread)?, place)
        }
    };
    if !pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Err(invalid(&name, format_args!("{place} holds no certificate in PEM form")));
    }
    Ok(Pem(pem))
}

//! The same settings from environment variables.
//!
//! Lookups go through a closure, of which [`process`] is the real one, so that tests need not change the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::builder::{Ca, Given, Name};
use super::endpoint::{parse_port, shown};
use super::{Access, ProxyConfigBuilder};
use crate::error::Error;
use crate::secret::Secret;

const FAMILY: &str = "RDS_PROXY_";
/// The family's members.
const KNOWN: [&str; 2] = ["RDS_PROXY_ENDPOINT", "RDS_PROXY_CALL_TIMEOUT_MS"];
/// What this crate's own tests read.
const OWN_TESTS: &str = "RDS_PROXY_POOL_";

/// A source of variables and the prefix their names carry.
pub(super) struct Environment<'a> {
    prefix: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

pub(super) fn process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable's text.
pub(super) fn text(name: &str, lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<String>, Error> {
    match lookup(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(Error::config("config.invalid", format!("{name}: not UTF-8"))),
    }
}

impl<'a> Environment<'a> {
    pub(super) fn new(prefix: &'a str, lookup: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Environment { prefix, lookup }
    }

    fn text(&self, name: &str) -> Result<Option<Given<String>>, Error> {
        let name = format!("{}{name}", self.prefix);
        Ok(text(&name, self.lookup)?.map(|value| Given { name: Name::Variable(name), value }))
    }

    fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<Given<T>>, Error> {
        let Some(Given { name, value }) = self.text(name)? else { return Ok(None) };
        match parse(&value) {
            Ok(value) => Ok(Some(Given { name, value })),
            Err(why) => Err(Error::config("config.invalid", format!("{name}: {why}"))),
        }
    }

    /// A builder with everything the variables say.
    pub(super) fn builder(&self) -> Result<ProxyConfigBuilder, Error> {
        for (name, instead) in [
            ("DB_SECRET_ARN", "passwords from Secrets Manager; give DB_PASSWORD, or neither to log in by IAM"),
            ("DB_DIAL_ADDR", "an address to dial other than the endpoint"),
        ] {
            let name = format!("{}{name}", self.prefix);
            if (self.lookup)(&name).is_some_and(|value| !value.is_empty()) {
                let message = format!("{name}: this version does not support {instead}");
                return Err(Error::config("config.unsupported", message));
            }
        }
        let mut builder = ProxyConfigBuilder {
            variables: Some(self.prefix.to_owned()),
            endpoint: self.text("RDS_PROXY_ENDPOINT")?,
            user: self.text("DB_USER")?,
            database: self.text("DB_NAME")?,
            port: self.parsed("DB_PORT", |text| parse_port(text.trim()))?,
            password: self.text("DB_PASSWORD")?.map(|given| given.map(Secret::from)),
            access: self.parsed("DB_ACCESS", access)?.map_or(Access::ReadWrite, |given| given.value),
            ca: self.ca()?,
            call_timeout: self.parsed("RDS_PROXY_CALL_TIMEOUT_MS", milliseconds)?,
            ..ProxyConfigBuilder::default()
        };
        if builder.endpoint.is_none() {
            builder.database_url = self.text("DATABASE_URL")?.map(|given| given.map(Secret::from));
        }
        Ok(builder)
    }

    fn ca(&self) -> Result<Option<Given<Ca>>, Error> {
        let name = format!("{}DB_CA_FILE", self.prefix);
        let Some(path) = (self.lookup)(&name) else { return Ok(None) };
        if path.is_empty() {
            return Err(Error::config("config.invalid", format!("{name}: is empty; leave it unset for no file")));
        }
        Ok(Some(Given { name: Name::Variable(name), value: Ca::File(PathBuf::from(path)) }))
    }

    /// Names of the family that mean nothing, each with the known name that is nearest.
    pub(super) fn strangers(&self, names: impl Iterator<Item = OsString>) -> Vec<(String, String)> {
        let stranger = |name: OsString| {
            let name = name.into_string().ok()?;
            let plain = name.strip_prefix(self.prefix)?;
            if !plain.starts_with(FAMILY) || plain.starts_with(OWN_TESTS) || KNOWN.contains(&plain) {
                return None;
            }
            let nearest = KNOWN.iter().min_by_key(|known| strsim::damerau_levenshtein(known, plain))?;
            let nearest = format!("{}{nearest}", self.prefix);
            Some((name, nearest))
        };
        names.filter_map(stranger).collect()
    }

    pub(super) fn warn_of_strangers(&self, names: impl Iterator<Item = OsString>) {
        for (name, nearest) in self.strangers(names) {
            tracing::warn!(variable = %name, %nearest, "an unknown variable is ignored; is the nearest one meant?");
        }
    }
}

fn access(text: &str) -> Result<Access, String> {
    match text.trim() {
        "read-write" => Ok(Access::ReadWrite),
        "read-only" => Ok(Access::ReadOnly),
        _ => Err(format!("{} is neither read-write nor read-only", shown(text))),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim();
    let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = digits.parse().ok().filter(|_| whole);
    parsed.map(Duration::from_millis).ok_or_else(|| format!("{} is not a whole number of milliseconds", shown(text)))
}

/// How many invocations this environment serves at once, as far as Lambda says; a value nobody can read counts as one.
pub(super) fn concurrency(lookup: &dyn Fn(&str) -> Option<OsString>) -> usize {
    const NAME: &str = "AWS_LAMBDA_MAX_CONCURRENCY";
    let Some(value) = lookup(NAME).filter(|value| !value.is_empty()) else { return 1 };
    match value.to_str().map(str::trim).and_then(|text| text.parse::<usize>().ok()) {
        Some(several) => several.max(1),
        None => {
            tracing::warn!(variable = NAME, ?value, "not a number; one invocation at a time is assumed");
            1
        }
    }
}

/// `config.conflict`, if one of `names` is set to something.
pub(super) fn refuse_stray(names: &[&str], lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<(), Error> {
    let Some(name) = names.iter().find(|name| lookup(name).is_some_and(|value| !value.is_empty())) else {
        return Ok(());
    };
    let why = match *name {
        "PGOPTIONS" => "RDS Proxy refuses what it holds",
        _ => "it would send a client certificate nobody configured",
    };
    let message = format!("{name}: the driver reads this variable by itself, and {why}; unset it");
    Err(Error::config("config.conflict", message))
}

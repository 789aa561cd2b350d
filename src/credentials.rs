//! AWS credentials from where a Lambda function has them: its environment, read again each time.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

/// Reads `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` each time it is asked: the default.
///
/// Under SnapStart, and on machines where credentials come from profiles or metadata endpoints, use
/// `SdkCredentials` (feature `aws-config`) or your own `ProvideCredentials`.
///
/// ```
/// use rds_proxy_pool::{EnvironmentCredentials, ProxyConfig};
///
/// let config = ProxyConfig::builder().credentials_provider(EnvironmentCredentials);
/// # let _ = config;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvironmentCredentials;

impl ProvideCredentials for EnvironmentCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(from_environment(|name| std::env::var(name).ok()))
    }
}

fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Credentials, CredentialsError> {
    let filled = |name: &'static str| variable(name).filter(|value| !value.trim().is_empty());
    let required = |name| {
        filled(name).ok_or_else(|| CredentialsError::not_loaded(format!("the environment variable {name} is not set")))
    };
    let key = required("AWS_ACCESS_KEY_ID")?;
    let secret = required("AWS_SECRET_ACCESS_KEY")?;
    Ok(Credentials::new(key, secret, filled("AWS_SESSION_TOKEN"), None, "environment"))
}

/// The AWS SDK's whole credential chain, set up on first use: environment, profiles, web identity, container and
/// instance endpoints.
///
/// Needs the feature `aws-config`. Nothing is loaded before the first connection is opened.
///
/// ```
/// use rds_proxy_pool::{ProxyConfig, SdkCredentials};
///
/// let config = ProxyConfig::builder().credentials_provider(SdkCredentials::default());
/// # let _ = config;
/// ```
#[cfg(feature = "aws-config")]
#[derive(Debug, Default)]
pub struct SdkCredentials {
    chain: tokio::sync::OnceCell<aws_config::default_provider::credentials::DefaultCredentialsChain>,
}

#[cfg(feature = "aws-config")]
impl ProvideCredentials for SdkCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let build = || aws_config::default_provider::credentials::DefaultCredentialsChain::builder().build();
            self.chain.get_or_init(build).await.provide_credentials().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_token_is_taken_along_and_a_missing_key_is_named() {
        let lambda = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("ASIAEXAMPLE".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            "AWS_SESSION_TOKEN" => Some("session".to_owned()),
            _ => None,
        };
        let credentials = from_environment(lambda).unwrap();
        assert_eq!(credentials.session_token(), Some("session"));

        let without = |name: &str| lambda(name).filter(|_| name != "AWS_SECRET_ACCESS_KEY");
        let error = from_environment(without).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("AWS_SECRET_ACCESS_KEY"), "{source}");
        assert!(from_environment(|_| Some(" ".to_owned())).is_err());
    }
}

//! The login token, signed as the AWS examples do it.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use url::Url;

pub fn token(
    credentials: Credentials,
    region: &str,
    host: &str,
    port: u16,
    user: &str,
) -> Result<String, Box<dyn Error + Send + Sync>> {
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(Duration::from_secs(900));
    settings.signature_location = SignatureLocation::QueryParams;
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(SystemTime::now())
        .settings(settings)
        .build()?;
    let address = format!("https://{host}:{port}/");
    let mut url = Url::parse_with_params(&address, [("Action", "connect"), ("DBUser", user)])?;
    let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _signature) = sign(request, &parameters.into())?.into_parts();
    for (name, value) in instructions.params() {
        url.query_pairs_mut().append_pair(name, value);
    }
    Ok(url.as_str().trim_start_matches("https://").to_owned())
}

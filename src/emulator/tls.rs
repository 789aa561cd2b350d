//! The emulator's certificate authority and the certificate it shows.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// An authority made for one emulator, and certificates for its host and to be refused.
pub(super) struct Identity {
    pub(super) ca_pem: String,
    pub(super) acceptor: TlsAcceptor,
    /// For the same host, by an authority that is thrown away.
    pub(super) unknown_issuer: TlsAcceptor,
    /// By the right authority, for a host nobody asks for.
    pub(super) other_host: TlsAcceptor,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Identity {
    pub(super) fn new(host: &str) -> io::Result<Self> {
        let (ours, strange) = (Authority::new("RDS Proxy emulator CA")?, Authority::new("nobody knows this CA")?);
        Ok(Identity {
            acceptor: ours.acceptor(host)?,
            unknown_issuer: strange.acceptor(host)?,
            other_host: ours.acceptor("other-host.invalid")?,
            ca_pem: ours.pem,
        })
    }
}

impl Authority {
    fn new(name: &str) -> io::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let pem = authority.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(authority, key) })
    }

    fn acceptor(&self, host: &str) -> io::Result<TlsAcceptor> {
        let leaf = CertificateParams::new(vec![host.to_owned()]).map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = leaf.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .map_err(io::Error::other)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

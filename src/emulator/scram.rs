//! The server's side of SCRAM-SHA-256, for users who log in with a password. Source: RFC 5802 and RFC 7677.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac;
use sha2::{Digest, Sha256};

use super::iam::mac;
use crate::secret::Secret;

/// RDS Proxy's own number. Source: "Amazon RDS Proxy", limitations.
const ITERATIONS: u32 = 4096;

/// All a server keeps of a password.
#[derive(Clone)]
pub(super) struct Verifier {
    salt: [u8; 16],
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// A login that has been asked for its proof.
pub(super) struct Challenge {
    pub(super) message: String,
    client_first: String,
    nonce: String,
    verifier: Verifier,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who knows the keys can play the server.
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(password: &Secret) -> Self {
        let salt = std::array::from_fn(|_| fastrand::u8(..));
        let salted_password = salted(password, &salt);
        let client_key = sign(&salted_password, b"Client Key");
        Verifier {
            salt,
            stored_key: Sha256::digest(client_key).into(),
            server_key: sign(&salted_password, b"Server Key"),
        }
    }
}

impl Challenge {
    /// Answers the client's first message; `None` when it is not one, or asks for channel binding.
    pub(super) fn new(client_first: &str, verifier: Verifier) -> Option<Self> {
        let client_first = client_first.strip_prefix("n,,").or_else(|| client_first.strip_prefix("y,,"))?;
        let client_nonce = client_first.split(',').find_map(|part| part.strip_prefix("r="))?;
        let nonce: String = client_nonce.chars().chain((0..24).map(|_| fastrand::alphanumeric())).collect();
        let message = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(verifier.salt));
        Some(Challenge { message, client_first: client_first.to_owned(), nonce, verifier })
    }

    /// Checks the client's proof; the server's own signature if it is right.
    pub(super) fn check(&self, client_final: &str) -> Option<String> {
        let (without_proof, proof) = client_final.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let binding = parts.next()?.strip_prefix("c=")?;
        if !matches!(binding, "biws" | "eSws") || parts.next()?.strip_prefix("r=")? != self.nonce {
            return None;
        }
        let message = format!("{},{},{without_proof}", self.client_first, self.message);
        let Verifier { stored_key, server_key, .. } = &self.verifier;
        let signature = sign(stored_key, message.as_bytes());
        let proof = STANDARD.decode(proof).ok().filter(|proof| proof.len() == signature.len())?;
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(proof, signature)| proof ^ signature).collect();
        let answer = || format!("v={}", STANDARD.encode(sign(server_key, message.as_bytes())));
        (Sha256::digest(&client_key)[..] == stored_key[..]).then(answer)
    }
}

fn sign(key: &[u8], text: &[u8]) -> [u8; 32] {
    mac(key, text).finalize().into_bytes().into()
}

fn salted(password: &Secret, salt: &[u8]) -> Vec<u8> {
    let key = password.expose().as_bytes();
    let mut block = mac(key, &[salt, &[0, 0, 0, 1]].concat()).finalize().into_bytes();
    let mut salted = block.to_vec();
    for _ in 1..ITERATIONS {
        block = mac(key, &block).finalize().into_bytes();
        salted.iter_mut().zip(block).for_each(|(all, one)| *all ^= one);
    }
    salted
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    fn login(password: &str) -> Option<String> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let challenge = Challenge::new(&text(client.message()), Verifier::new(&Secret::from("right"))).unwrap();
        client.update(challenge.message.as_bytes()).unwrap();
        let answer = challenge.check(&text(client.message()))?;
        client.finish(answer.as_bytes()).unwrap();
        Some(answer)
    }

    #[test]
    fn the_right_password_is_accepted_by_both_sides_and_a_wrong_one_is_not() {
        assert!(login("right").is_some());
        assert!(login("wrong").is_none());
    }
}

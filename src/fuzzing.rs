//! What the fuzz targets in `tests/fuzz` run. It is compiled for them and for the unit tests alone.
//!
//! Each function takes any bytes, and panics where what its first line says does not hold.

use crate::config;
#[cfg(feature = "emulator")]
use crate::emulator;

/// A startup packet that is understood has a user and is understood the same once encoded again.
#[cfg(feature = "emulator")]
pub fn startup(packet: &[u8]) {
    emulator::fuzzing::startup(packet);
}

/// However a stream is cut into pieces it gives the same frames, in memory bounded by what has arrived.
#[cfg(feature = "emulator")]
pub fn frames(data: &[u8]) {
    emulator::fuzzing::frames(data);
}

/// A token is accepted exactly if it means what the valid one means, or was signed for what is asked of it.
#[cfg(feature = "emulator")]
pub fn token(data: &[u8]) {
    match data.split_first() {
        Some((b'a', text)) => emulator::fuzzing::altered_token(text),
        Some((b'r', choices)) => emulator::fuzzing::rearranged_token(choices),
        Some((b's', claims)) => signed::token(claims),
        _ => {}
    }
}

/// An endpoint that is accepted can be written down and read again.
pub fn endpoint(text: &[u8]) {
    config::fuzzing::endpoint(text);
}

/// Any variables give a configuration, or an error that names one of them and tells no password.
pub fn environment(lines: &[u8]) {
    config::fuzzing::environment(lines);
}

/// A URL is read as it is written, or refused without a word of its password.
pub fn database_url(text: &[u8]) {
    config::fuzzing::database_url(text);
}

/// Tokens of the crate's own signer.
#[cfg(feature = "emulator")]
mod signed {
    use std::time::{Duration, SystemTime};

    use aws_credential_types::Credentials;

    use crate::emulator::TokenRefusal;
    use crate::emulator::fuzzing::{Claims, verdict};
    use crate::sign::sign;

    /// The first byte tells in what the token differs from what is asked of it, four are the time of signing, two how
    /// much later it is judged; the rest is the user.
    pub(super) fn token(data: &[u8]) {
        let Some((&[differences, a, b, c, d, e, f], user)) = data.split_first_chunk() else { return };
        let differs = |bit: u8| differences & (1 << bit) != 0;
        let user = String::from_utf8_lossy(user);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u32::from_be_bytes([a, b, c, d]).into());
        let age = i64::from(i16::from_be_bytes([e, f])) / 16;
        let session_token = differs(7).then_some("session");

        let asked = Claims {
            id: "AKIAEXAMPLE",
            secret: "right",
            session_token,
            host: "db.example.com",
            port: 5432,
            region: "eu-west-1",
            user: &user,
        };
        let credentials = Credentials::new(
            if differs(4) { "AKIAANOTHER" } else { asked.id },
            if differs(6) { "wrong" } else { asked.secret },
            if differs(5) { session_token.map_or(Some("other"), |_| None) } else { session_token }.map(str::to_owned),
            None,
            "fuzzing",
        );
        let host = if differs(0) { "db.example.org" } else { asked.host };
        let port = if differs(1) { 5433 } else { asked.port };
        let region = if differs(3) { "eu-west-2" } else { asked.region };
        let signed_user = if differs(2) { format!("{user}+") } else { user.to_string() };
        let token = sign(&credentials, host, port, region, &signed_user, at).expect("the signer takes any user");

        let refusals = [
            (differs(0), TokenRefusal::WrongHost),
            (differs(1), TokenRefusal::WrongPort),
            (differs(2), TokenRefusal::WrongUser),
            (differs(3), TokenRefusal::WrongScope),
            (differs(4), TokenRefusal::UnknownKey),
            (differs(5), TokenRefusal::WrongSessionToken),
            (differs(6), TokenRefusal::WrongSignature),
            (age < -300, TokenRefusal::NotYetValid),
            (age >= 900, TokenRefusal::Expired),
        ];
        let expected = refusals.iter().find(|(applies, _)| *applies).map_or(Ok(()), |(_, refusal)| Err(*refusal));
        let now = match u64::try_from(age) {
            Ok(age) => at + Duration::from_secs(age),
            Err(_) => at - Duration::from_secs(age.unsigned_abs()),
        };
        assert_eq!(verdict(token.expose(), &asked, now), expected, "{}", token.expose());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The seeds of the fuzz targets, which only a checkout has: a packaged crate comes without them.
    #[test]
    fn every_seed_of_the_fuzz_targets_keeps_what_they_promise() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        if !corpus.exists() {
            eprintln!("skipped: there is no {}", corpus.display());
            return;
        }
        type Target = fn(&[u8]);
        let targets = [
            ("startup", super::startup as Target),
            ("frames", super::frames),
            ("token", super::token),
            ("endpoint", super::endpoint),
            ("environment", super::environment),
            ("database_url", super::database_url),
        ];
        for (name, target) in targets {
            let seeds = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path());
            // What a run has found is no seed.
            let seeds: Vec<_> = seeds.filter(|path| path.extension().is_some_and(|end| end == "seed")).collect();
            assert!(seeds.len() >= 4, "{name} has {} seeds", seeds.len());
            for seed in seeds {
                println!("{}", seed.display());
                target(&std::fs::read(&seed).unwrap());
            }
        }
    }
}

//! What is to take effect once.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind};
use crate::outcome::Phase;

const LONGEST: usize = 255;
const RESULT_BYTES: RangeInclusive<usize> = 1..=1024 * 1024;

/// Names what [`Pool::transaction_once`](crate::Pool::transaction_once) is to do once: a scope, and an event in it.
///
/// The scope says what is done. Two functions that share a database and handle the same event need two of them, as do two
/// steps of one handler. Keys of different constructors never meet.
///
/// Each part has 1 to 255 bytes and no NUL; others are refused with `once.key` when the key is used.
///
/// ```
/// use rds_proxy_pool::OnceKey;
///
/// let key = OnceKey::sqs_message("book-order", "059f36b4-87a3-44ab-83d2-661975830a7d").payload(b"{\"order\":7}");
/// assert_ne!(key, OnceKey::new("book-order", "059f36b4-87a3-44ab-83d2-661975830a7d").payload(b"{\"order\":7}"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it does nothing by itself"]
pub struct OnceKey {
    scope: String,
    key: String,
    payload_hash: Option<[u8; 32]>,
    max_result_bytes: usize,
    fault: Option<String>,
}

impl OnceKey {
    /// Any name of an event that a repeat has as well: an `Idempotency-Key` header, the id of an EventBridge event, an S3
    /// object's key with its version.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::new("charge-card", "8e03978e-40d5-43e8-bc93-6894a57f9324");
    /// # let _ = key;
    /// ```
    pub fn new(scope: impl Into<String>, key: impl Into<String>) -> Self {
        let key = key.into();
        Self::with_parts(scope.into(), format!("key:{key}"), &[("key", &key)])
    }

    /// The request id of an invocation, `event.context.request_id`. Lambda's own retries of an asynchronous invocation keep
    /// it; a caller who tries again gets another one, and needs a key of its own.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::lambda_request("import-file", "8476a536-e9f4-11e8-9739-2dfe598c3fcd");
    /// # let _ = key;
    /// ```
    pub fn lambda_request(scope: impl Into<String>, request_id: impl Into<String>) -> Self {
        let id = request_id.into();
        Self::with_parts(scope.into(), format!("lambda:{id}"), &[("request_id", &id)])
    }

    /// The `messageId` of a record from SQS, which each delivery of it has. A sender who sends twice sends two messages.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::sqs_message("book-order", "059f36b4-87a3-44ab-83d2-661975830a7d");
    /// # let _ = key;
    /// ```
    pub fn sqs_message(scope: impl Into<String>, message_id: impl Into<String>) -> Self {
        let id = message_id.into();
        Self::with_parts(scope.into(), format!("sqs:{id}"), &[("message_id", &id)])
    }

    /// The shard and sequence number of a record from Kinesis or DynamoDB. They name a record within one stream: where
    /// several are read, the scope has to name the stream as well.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::stream_record("audit:orders", "shardId-000000000006", "49590338271490256608559692538361571095");
    /// # let _ = key;
    /// ```
    pub fn stream_record(
        scope: impl Into<String>,
        shard_id: impl Into<String>,
        sequence_number: impl Into<String>,
    ) -> Self {
        let (shard, sequence) = (shard_id.into(), sequence_number.into());
        // With its length, or two pairs could make one key.
        let key = format!("stream:{}:{shard}:{sequence}", shard.len());
        Self::with_parts(scope.into(), key, &[("shard_id", &shard), ("sequence_number", &sequence)])
    }

    fn with_parts(scope: String, key: String, parts: &[(&str, &str)]) -> Self {
        let first = ("scope", scope.as_str());
        let fault = std::iter::once(&first).chain(parts).find_map(|(name, part)| {
            let wrong = match part.len() {
                0 => "is empty".to_owned(),
                length if length > LONGEST => format!("has {length} bytes, more than {LONGEST}"),
                _ if part.contains('\0') => "holds a NUL".to_owned(),
                _ => return None,
            };
            Some(format!("{name} {wrong}"))
        });
        OnceKey { scope, key, payload_hash: None, max_result_bytes: 64 * 1024, fault }
    }

    /// What it is done with, compared by SHA-256 with what it was done with before: the same key with another payload is
    /// refused with `once.payload`. Not compared where either has none.
    ///
    /// Bytes that each delivery has alike: the body of a message, not the record with its receive count.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = |body: &str| OnceKey::sqs_message("book-order", "059f36b4").payload(body.as_bytes());
    /// assert_eq!(key("order 7"), key("order 7"));
    /// assert_ne!(key("order 7"), key("order 8"));
    /// ```
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload_hash = Some(Sha256::digest(payload).into());
        self
    }

    /// How large a result may be in JSON; 1 byte to 1 MiB, default 64 KiB. Return what names a large result, not the result.
    ///
    /// ```
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::new("make-report", "2026-11").max_result_bytes(1024);
    /// # let _ = key;
    /// ```
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.max_result_bytes = bytes;
        self
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn payload_hash(&self) -> Option<&[u8]> {
        self.payload_hash.as_ref().map(<[u8; 32]>::as_slice)
    }

    pub(super) fn most_bytes(&self) -> usize {
        self.max_result_bytes
    }

    /// `once.key` unless it can be used.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (least, most) = RESULT_BYTES.into_inner();
        let size = (!RESULT_BYTES.contains(&self.max_result_bytes))
            .then(|| format!("max_result_bytes {} is outside {least}..={most}", self.max_result_bytes));
        match self.fault.clone().or(size) {
            None => Ok(()),
            Some(fault) => {
                let message = format!("what is to be done once has no usable key: {fault}");
                Err(Error::new(ErrorKind::Usage, "once.key", message).phase_of(Phase::Begin))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_key_is_refused_when_it_is_used() {
        let long = "x".repeat(255);
        assert!(OnceKey::new(&*long, &*long).check().is_ok());
        assert!(OnceKey::stream_record(&*long, &*long, &*long).max_result_bytes(1 << 20).check().is_ok());
        let longer = "x".repeat(256);
        for (wrong, says) in [
            (OnceKey::new("", "k"), "scope is empty"),
            (OnceKey::new("s", ""), "key is empty"),
            (OnceKey::new("s\0", "k"), "scope holds a NUL"),
            (OnceKey::new("s", &*longer), "key has 256 bytes, more than 255"),
            (OnceKey::lambda_request("s", ""), "request_id is empty"),
            (OnceKey::sqs_message("s", "\0"), "message_id holds a NUL"),
            (OnceKey::stream_record("s", "", "1"), "shard_id is empty"),
            (OnceKey::stream_record("s", "1", &*longer), "sequence_number has 256 bytes"),
            (OnceKey::new("s", "k").max_result_bytes(0), "max_result_bytes 0 is outside 1..=1048576"),
            (OnceKey::new("s", "k").max_result_bytes(1 << 21), "max_result_bytes 2097152 is outside"),
        ] {
            let error = wrong.check().expect_err(says);
            assert_eq!(error.code(), "once.key");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn keys_of_different_kinds_never_meet() {
        let keys = [
            OnceKey::new("s", "1"),
            OnceKey::new("s", "sqs:1"),
            OnceKey::lambda_request("s", "1"),
            OnceKey::sqs_message("s", "1"),
            OnceKey::stream_record("s", "a:b", "c"),
            OnceKey::stream_record("s", "a", "b:c"),
            OnceKey::new("s", "stream:1:a:b:c"),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert!(keys[at + 1..].iter().all(|other| one.key() != other.key()), "{one:?}");
        }
    }
}

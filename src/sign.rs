//! Signs IAM tokens.

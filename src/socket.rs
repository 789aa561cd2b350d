//! The driver's socket: found, tuned and looked at.

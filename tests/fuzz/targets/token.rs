//! The emulator's token verifier.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rds_proxy_pool::fuzzing::token(data));

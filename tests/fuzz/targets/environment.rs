//! Settings from environment variables.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rds_proxy_pool::fuzzing::environment(data));

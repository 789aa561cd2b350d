//! Settings from DATABASE_URL.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rds_proxy_pool::fuzzing::database_url(data));

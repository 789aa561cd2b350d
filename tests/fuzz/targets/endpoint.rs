//! Endpoints, and the regions in their names.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rds_proxy_pool::fuzzing::endpoint(data));

//! The emulator's startup packet.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rds_proxy_pool::fuzzing::startup(data));

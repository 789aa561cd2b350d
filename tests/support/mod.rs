//! What tests, benches and examples start: servers and the Lambda harness.

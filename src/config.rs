//! Every setting, checked once.

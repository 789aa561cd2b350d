//! Platforms on which the socket is not looked for: it is never found.

use super::hunt::{Kernel, Sample};
use super::{DriverSocket, Look, Transmission};

/// Whether sockets can be found here at all.
pub(super) const SUPPORTED: bool = false;

/// The kernel of this platform, which tells nothing.
pub(super) struct System;

impl Kernel for System {
    fn sockets(&mut self) -> Option<Vec<DriverSocket>> {
        None
    }

    fn is_connect_to(&mut self, _: DriverSocket, _: u16) -> bool {
        false
    }

    fn sample(&mut self, _: DriverSocket) -> Option<Sample> {
        None
    }
}

pub(super) fn tune(_: DriverSocket) {}

pub(super) fn give_up(_: DriverSocket) {}

pub(super) fn look(_: DriverSocket) -> Look {
    Look::Gone
}

pub(super) fn transmission(_: DriverSocket) -> Option<Transmission> {
    None
}

#[cfg(test)]
pub(super) fn local_addr(_: DriverSocket) -> Option<std::net::SocketAddr> {
    None
}

//! The reasoning of the search, on a kernel that does as it is told.

use proptest::prelude::*;

use crate::clock::{Clock, SystemClock};
use crate::socket::DriverSocket;
use crate::socket::hunt::{Hunt, Kernel, Sample, State};

const PORT: u16 = 5432;

/// A kernel with the sockets of one process.
#[derive(Default)]
struct Script {
    /// By descriptor.
    open: Vec<Option<(u64, Sample)>>,
    cookies: u64,
    blind: bool,
}

impl Script {
    /// Opens a socket that waits for an answer to its SYN, with the lowest free descriptor, as kernels do.
    fn open(&mut self) -> DriverSocket {
        self.cookies += 1;
        let opened = Some((self.cookies, Sample { state: State::SynSent, written: 0, read: Some(0) }));
        let fd = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if fd == self.open.len() {
            self.open.push(opened);
        } else {
            self.open[fd] = opened;
        }
        DriverSocket { fd: fd.try_into().unwrap(), cookie: self.cookies }
    }

    fn established(&mut self) -> DriverSocket {
        let socket = self.open();
        self.change(socket, |sample| sample.state = State::Established);
        socket
    }

    fn slot(&mut self, socket: DriverSocket) -> Option<&mut Option<(u64, Sample)>> {
        let slot = self.open.get_mut(usize::try_from(socket.fd).ok()?)?;
        slot.is_some_and(|(cookie, _)| cookie == socket.cookie).then_some(slot)
    }

    fn change(&mut self, socket: DriverSocket, change: impl FnOnce(&mut Sample)) {
        if let Some(Some((_, sample))) = self.slot(socket) {
            change(sample);
        }
    }

    fn write(&mut self, socket: DriverSocket) {
        self.change(socket, |sample| sample.written += 8);
    }

    fn read(&mut self, socket: DriverSocket) {
        self.change(socket, |sample| sample.read = sample.read.map(|read| read + 1));
    }

    fn close(&mut self, socket: DriverSocket) {
        if let Some(slot) = self.slot(socket) {
            *slot = None;
        }
    }
}

impl Kernel for Script {
    fn sockets(&mut self) -> Option<Vec<DriverSocket>> {
        let open = (0..).zip(&self.open).filter_map(|(fd, slot)| Some(DriverSocket { fd, cookie: (*slot)?.0 }));
        (!self.blind).then(|| open.collect())
    }

    fn is_connect_to(&mut self, socket: DriverSocket, port: u16) -> bool {
        port == PORT && self.slot(socket).is_some()
    }

    fn sample(&mut self, socket: DriverSocket) -> Option<Sample> {
        (*self.slot(socket)?).map(|(_, sample)| sample)
    }
}

/// One poll of a future that does `act`.
fn poll<T>(hunt: &mut Hunt, kernel: &mut Script, act: impl FnOnce(&mut Script) -> T) -> T {
    hunt.before_poll(kernel, SystemClock.monotonic());
    let acted = act(kernel);
    hunt.after_poll(kernel, SystemClock.monotonic());
    acted
}

fn write_and_read(kernel: &mut Script, sockets: &[DriverSocket]) {
    for &socket in sockets {
        kernel.write(socket);
        kernel.read(socket);
    }
}

#[test]
fn a_socket_is_found_once_it_was_written_and_read() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, true), Script::default());
    let ours = poll(&mut hunt, &mut kernel, Script::established);
    assert_eq!(hunt.found(), None);
    poll(&mut hunt, &mut kernel, |kernel| kernel.write(ours));
    assert_eq!(hunt.found(), None);
    poll(&mut hunt, &mut kernel, |kernel| kernel.read(ours));
    assert_eq!(hunt.found(), Some(ours));
}

#[test]
fn beside_a_stranger_that_stays_silent_or_acts_only_when_we_do_neither_is_taken() {
    for silent in [true, false] {
        let (mut hunt, mut kernel) = (Hunt::new(PORT, true), Script::default());
        let [ours, stranger] = poll(&mut hunt, &mut kernel, |kernel| [kernel.established(), kernel.established()]);
        for _ in 0..5 {
            let active = if silent { &[ours][..] } else { &[ours, stranger] };
            poll(&mut hunt, &mut kernel, |kernel| write_and_read(kernel, active));
            assert_eq!(hunt.found(), None);
            assert_eq!(hunt.connecting(), None);
        }
        // It gives itself away.
        kernel.write(stranger);
        poll(&mut hunt, &mut kernel, |kernel| write_and_read(kernel, &[ours]));
        assert_eq!(hunt.found(), Some(ours));
    }
}

#[test]
fn a_stranger_that_is_silent_while_nothing_of_ours_is_seen_is_not_taken() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, true), Script::default());
    poll(&mut hunt, &mut kernel, Script::established);
    for _ in 0..5 {
        poll(&mut hunt, &mut kernel, |_| ());
        assert_eq!(hunt.found(), None);
    }
}

#[test]
fn strangers_seen_during_name_resolution_do_not_end_the_search() {
    // Struck off for acting on its own, or closed, before the name was resolved.
    for end in [Script::write, Script::close] {
        let (mut hunt, mut kernel) = (Hunt::new(PORT, false), Script::default());
        let stranger = poll(&mut hunt, &mut kernel, Script::established);
        end(&mut kernel, stranger);
        let ours = poll(&mut hunt, &mut kernel, Script::open);
        assert_eq!(hunt.connecting().map(|(socket, _)| socket), Some(ours));
        kernel.change(ours, |sample| sample.state = State::Established);
        poll(&mut hunt, &mut kernel, |kernel| write_and_read(kernel, &[ours]));
        assert_eq!(hunt.found(), Some(ours));
    }
}

#[test]
fn a_name_resolved_within_the_first_poll_is_no_reason_to_take_the_stranger_of_the_second() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, false), Script::default());
    let ours = poll(&mut hunt, &mut kernel, Script::established);
    let stranger = poll(&mut hunt, &mut kernel, |kernel| {
        kernel.write(ours);
        kernel.established()
    });
    poll(&mut hunt, &mut kernel, |kernel| write_and_read(kernel, &[stranger]));
    assert_eq!(hunt.found(), None);
    kernel.read(stranger);
    poll(&mut hunt, &mut kernel, |kernel| kernel.read(ours));
    assert_eq!(hunt.found(), Some(ours));
}

#[test]
fn the_last_stranger_of_name_resolution_is_not_taken_before_ours_can_have_been_made() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, false), Script::default());
    let strangers = poll(&mut hunt, &mut kernel, |kernel| {
        let strangers = [kernel.established(), kernel.established()];
        write_and_read(kernel, &strangers);
        strangers
    });
    kernel.close(strangers[0]);
    // Asked before the second poll as well as after it.
    hunt.before_poll(&mut kernel, SystemClock.monotonic());
    assert_eq!(hunt.found(), None);
    let ours = kernel.established();
    hunt.after_poll(&mut kernel, SystemClock.monotonic());
    assert_eq!(hunt.found(), None);
    kernel.close(strangers[1]);
    poll(&mut hunt, &mut kernel, |kernel| write_and_read(kernel, &[ours]));
    assert_eq!(hunt.found(), Some(ours));
}

#[test]
fn only_a_socket_that_came_alone_may_be_given_up() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, true), Script::default());
    let first = poll(&mut hunt, &mut kernel, Script::open);
    assert_eq!(hunt.connecting().map(|(socket, _)| socket), Some(first));
    let [next, _] = poll(&mut hunt, &mut kernel, |kernel| {
        kernel.close(first);
        [kernel.open(), kernel.open()]
    });
    assert_eq!(next.fd, first.fd, "the kernel hands the number out again");
    assert_eq!(hunt.connecting(), None);
}

#[test]
fn a_kernel_that_shows_nothing_ends_the_search() {
    let (mut hunt, mut kernel) = (Hunt::new(PORT, true), Script { blind: true, ..Script::default() });
    poll(&mut hunt, &mut kernel, Script::established);
    assert!(!hunt.is_on());
    assert_eq!(hunt.found(), None);
}

/// What a stranger does: opens a socket, or does something to one of its own, counted from the latest.
#[derive(Clone, Copy, Debug)]
enum Act {
    Open,
    Establish(usize),
    Write(usize),
    Read(usize),
    Close(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0_usize..4;
    prop_oneof![
        3 => Just(Act::Open),
        2 => which.clone().prop_map(Act::Establish),
        3 => which.clone().prop_map(Act::Write),
        3 => which.clone().prop_map(Act::Read),
        1 => which.prop_map(Act::Close),
    ]
}

fn perform(acts: &[Act], kernel: &mut Script, strangers: &mut Vec<DriverSocket>) {
    for act in acts {
        let which = match *act {
            Act::Open => 0,
            Act::Establish(which) | Act::Write(which) | Act::Read(which) | Act::Close(which) => which,
        };
        let chosen = strangers.iter().rev().nth(which).copied();
        match (act, chosen) {
            (Act::Open, _) => strangers.push(kernel.open()),
            (Act::Establish(_), Some(stranger)) => {
                kernel.change(stranger, |sample| sample.state = State::Established);
            }
            (Act::Write(_), Some(stranger)) => kernel.write(stranger),
            (Act::Read(_), Some(stranger)) => kernel.read(stranger),
            (Act::Close(_), Some(stranger)) => kernel.close(stranger),
            (_, None) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Strangers do what they like, at any time; the driver resolves, fails at some addresses and logs in.
    #[test]
    fn whatever_strangers_do_none_of_theirs_is_found_or_given_up(
        literal: bool,
        fast_resolver: bool,
        failing in 0_usize..3,
        polls in prop::collection::vec((prop::collection::vec(act(), 0..3), prop::collection::vec(act(), 0..3)), 2..12),
    ) {
        let (mut hunt, mut kernel) = (Hunt::new(PORT, literal), Script::default());
        let mut strangers = Vec::new();
        let mut ours: Vec<DriverSocket> = Vec::new();
        let mut to_resolve = usize::from(!literal && !fast_resolver);
        for (between, during) in &polls {
            perform(between, &mut kernel, &mut strangers);
            if let (Some(&present), true) = (ours.last(), ours.len() > failing) {
                kernel.change(present, |sample| sample.state = State::Established);
            }
            hunt.before_poll(&mut kernel, SystemClock.monotonic());
            // What is known then is used, too.
            prop_assert!(hunt.found().is_none() || hunt.found() == ours.last().copied());
            let mut act = |kernel: &mut Script| {
                let (early, late) = during.split_at(during.len() / 2);
                perform(early, kernel, &mut strangers);
                if to_resolve > 0 {
                    to_resolve -= 1;
                } else if ours.len() <= failing {
                    ours.last().into_iter().for_each(|failed| kernel.close(*failed));
                    ours.push(kernel.open());
                } else {
                    write_and_read(kernel, &ours[failing..]);
                }
                perform(late, kernel, &mut strangers);
            };
            act(&mut kernel);
            hunt.after_poll(&mut kernel, SystemClock.monotonic());
            let present = ours.last().copied();
            prop_assert!(hunt.found().is_none() || hunt.found() == present);
            let connecting = hunt.connecting().map(|(socket, _)| socket);
            prop_assert!(connecting.is_none() || connecting == present);
        }
    }
}

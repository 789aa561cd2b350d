//! Faults that take more than the emulator: this process is stopped, as an environment is frozen, and the kernel resets its
//! connections or drops their packets.
//!
//! A shell does it and undoes it, in a process group of its own: it lives on when this process is interrupted or killed.
//! Packets are dropped by a table of that shell's own, and only those of the emulator's port.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::Outcome;

/// A process id and a port. Whom it resets is the emulator's side: the clients find out by the packet that says so.
const RESET: &str = r#"ss -KHtn state established "( sport = :$2 )" > /dev/null"#;
const DROP: &str = r#"nft -f - << END || exit
table inet fault_lab_$1 {
    chain arriving {
        type filter hook input priority 0;
        iifname "lo" tcp dport $2 drop
        iifname "lo" tcp sport $2 drop
    }
}
END"#;
const NO_MORE: &str = r#"nft delete table inet "fault_lab_$1""#;
/// How long a reset takes on loopback, at most.
const SOON: Duration = Duration::from_millis(300);

/// What can be done on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) resets: bool,
    pub(crate) drops: bool,
}

/// What happens to the connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Network {
    Reset,
    /// Until this long after the process goes on.
    Dropped(Duration),
}

/// A shell at work.
pub(crate) struct Disturbance {
    shell: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Kernel {
    /// Tries it out.
    pub(crate) async fn find() -> Kernel {
        let drops = shell(&format!("{DROP}\n{NO_MORE}"), 0);
        Kernel { resets: resets().await.unwrap_or(false), drops: succeeds(drops).await }
    }

    /// What cannot be done here, in words.
    pub(crate) fn missing(self) -> Vec<&'static str> {
        let resets = "no resets while the process is stopped, but as soon as it goes on: they need root and `ss`";
        let drops = "no dropped packets: they need root and `nft`";
        let missing = [(self.resets, resets), (self.drops, drops)];
        missing.into_iter().filter(|(there, _)| !there).map(|(_, what)| what).collect()
    }

    /// Stops this process for so long, with its connections reset or cut off.
    pub(crate) fn stop(self, lasts: Duration, network: Network, port: u16) -> Outcome<Disturbance> {
        let stop = format!("kill -STOP \"$1\"\nsleep {}", lasts.as_secs_f64());
        let go_on = "kill -CONT \"$1\"\necho";
        let script = match network {
            Network::Reset if self.resets => format!("{stop}\n{RESET}\n{go_on}"),
            Network::Reset => format!("{stop}\n{go_on}"),
            Network::Dropped(after) => {
                format!("{DROP}\n{stop}\n{go_on}\nsleep {}\n{NO_MORE}", after.as_secs_f64())
            }
        };
        Disturbance::begin(&script, port)
    }

    /// Drops packets for so long.
    pub(crate) fn drop_packets(self, lasts: Duration, port: u16) -> Outcome<Disturbance> {
        Disturbance::begin(&format!("{DROP}\necho\nsleep {}\n{NO_MORE}", lasts.as_secs_f64()), port)
    }
}

impl Disturbance {
    fn begin(script: &str, port: u16) -> Outcome<Disturbance> {
        let mut shell = shell(script, port).stdout(Stdio::piped()).spawn()?;
        let said = shell.stdout.take().ok_or("the shell has no output")?;
        Ok(Disturbance { shell, said: BufReader::new(said).lines() })
    }

    /// Completes when the process goes on; packets may still be dropped.
    pub(crate) async fn goes_on(&mut self) -> Outcome<()> {
        self.said.next_line().await?.ok_or("the kernel did not do what it had done before")?;
        Ok(())
    }

    /// Completes when all is as it was.
    pub(crate) async fn end(mut self) -> Outcome<()> {
        if self.shell.wait().await?.success() { Ok(()) } else { Err("packets may still be dropped".into()) }
    }
}

fn shell(script: &str, port: u16) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' HUP INT TERM\n{script}"), "fault_lab"]);
    shell.args([std::process::id().to_string(), port.to_string()]);
    shell.stdin(Stdio::null()).process_group(0);
    shell
}

async fn succeeds(mut shell: Command) -> bool {
    shell.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

/// Whether a connection of ours can be reset from outside.
async fn resets() -> std::io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let _server = listener.accept()?;
    let said_so = succeeds(shell(RESET, listener.local_addr()?.port())).await;
    client.set_read_timeout(Some(SOON))?;
    let read = client.read(&mut [0]);
    Ok(said_so && read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset))
}

//! Child processes that never outlive us, not even when we are killed.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

/// How often a state that sends no notice is looked at.
pub const POLL: Duration = Duration::from_millis(3);

/// Below it are those of well-known services.
const LOWEST_PORT: u16 = 10_000;

/// A running child in a process group of its own; killed, with its group, when dropped.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    child: Mutex<Child>,
    last_words: Signal,
}

/// How to start a child.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    user: Option<User>,
    last_words: Signal,
}

/// Whom a child runs as, when we are root and the program refuses to be.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl Launch {
    /// `program` as ourselves, killed when we go.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Launch { program: program.into(), user: None, last_words: Signal::KILL }
    }

    /// As another user; only root can.
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// The signal the child gets when it is dropped or when we die, instead of `SIGKILL`.
    pub fn last_words(mut self, signal: Signal) -> Self {
        self.last_words = signal;
        self
    }

    /// The command that does all of it, for the caller to add arguments and environment to.
    ///
    /// `setpriv` is part of util-linux; without it the child runs as ourselves and is killed on drop only.
    pub fn command(&self) -> Command {
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                let signal = if self.last_words == Signal::QUIT { "QUIT" } else { "KILL" };
                command.args(["--pdeathsig", signal]);
                if let Some(User { uid, gid }) = self.user {
                    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
                }
                command.arg("--").arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts what [`command`](Self::command) made.
    pub fn spawn(&self, command: Command) -> io::Result<Process> {
        let child = spawn(command)?;
        let pid = Pid::from_child(&child);
        Ok(Process { pid, child: Mutex::new(child), last_words: self.last_words })
    }
}

impl Process {
    /// The process id; that of the program itself, since the launcher becomes it.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Sends a signal to the process alone. A process that has gone is no error.
    pub fn signal(&self, signal: Signal) {
        if self.try_wait().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Sends a signal to the process and the children it started in its group.
    pub fn signal_group(&self, signal: Signal) {
        if self.try_wait().is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Kills the process and its children, those in other groups and sessions too, as if the machine had gone; completes
    /// when all of them have ended.
    pub async fn kill_tree(&self) {
        // Stopped first, so that it cannot start another child meanwhile.
        self.signal(Signal::STOP);
        let raw = self.id();
        let children = std::fs::read_to_string(format!("/proc/{raw}/task/{raw}/children")).unwrap_or_default();
        let children: Vec<_> = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
        for child in &children {
            let _ = kill_process(*child, Signal::KILL);
        }
        self.signal_group(Signal::KILL);
        self.wait().await;
        // A server does not start while a process of the one before still holds its shared memory.
        let runs = |child: &Pid| state(child.as_raw_nonzero().get() as u32).is_some_and(|state| state != 'Z');
        while children.iter().any(runs) {
            tokio::time::sleep(POLL).await;
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// The kernel's letter for what it is doing (`T` stopped, `Z` ended); `None` where there is no `/proc`.
    pub fn state(&self) -> Option<char> {
        state(self.id())
    }

    /// Waits for the end. Cancel safe.
    pub async fn wait(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the pipes the command asked for.
    pub fn pipes(&self) -> (Option<std::process::ChildStdout>, Option<std::process::ChildStderr>) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        (child.stdout.take(), child.stderr.take())
    }
}

fn state(pid: u32) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and may hold any character.
    status.rsplit_once(") ")?.1.chars().next()
}

impl Drop for Process {
    fn drop(&mut self) {
        let patience = Instant::now() + Duration::from_secs(2);
        self.signal_group(self.last_words);
        while self.try_wait().is_none() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.signal_group(Signal::KILL);
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// Looks for a program on `PATH`, then where system programs live, and follows links to the file itself.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find_map(|file| executable(&file))
}

/// The file behind `path` when it can be run.
pub fn executable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let file = path.canonicalize().ok()?;
    let found = file.metadata().ok()?;
    (found.is_file() && found.permissions().mode() & 0o111 != 0).then_some(file)
}

/// A free port of 127.0.0.1 that nobody is given while its server is down: below those the system chooses from, be it for
/// a client or for whoever asks for port 0.
pub fn lasting_port() -> io::Result<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    let port = |_| fastrand::u16(LOWEST_PORT..first.max(LOWEST_PORT + 1));
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..100).map(port).find(free).ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

fn setpriv() -> Option<&'static Path> {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    SETPRIV.get_or_init(|| find_program("setpriv")).as_deref()
}

/// Spawns from a thread that lives as long as the process.
///
/// The kernel sends the parent-death signal when the *thread* that spawned ends; a test's thread ends with the test.
fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, incoming) = channel::<Request>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in incoming {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(requests)
    });
    let (reply, answer) = channel();
    let sent = spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply));
    sent.map_err(|_| io::Error::other("the spawner thread has gone"))?;
    answer.recv().map_err(|_| io::Error::other("the spawner thread has gone"))?
}

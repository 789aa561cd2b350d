//! Where the server binaries are, whom they run as, and a data directory to copy from.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::process::{Launch, Signal, User, executable, find_program};
use super::Failure;

/// What a memory file system must have free before we put servers there; one takes 40 MB.
const ROOM: u64 = 2 << 30;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
fsync = off
full_page_writes = off
wal_level = replica
wal_retrieve_retry_interval = 20ms
synchronous_commit = remote_apply
max_wal_senders = 8
wal_keep_size = 64MB
max_prepared_transactions = 16
autovacuum = off
jit = off
log_min_messages = warning
";

// Whoever speaks on loopback is believed, as the emulator in front has checked the client; except one role, for tests
// of a real password login.
const ACCESS: &str = "
host all with_password 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
";

// Single-user mode takes one statement per line.
const CONTENTS: &str = "\
CREATE ROLE app LOGIN
CREATE ROLE with_password LOGIN PASSWORD 'a password'
CREATE DATABASE app OWNER app
";

/// PostgreSQL's programs and the user they run as.
#[derive(Debug, Clone)]
pub struct Installation {
    dir: PathBuf,
    user: Option<User>,
    version: String,
}

impl Installation {
    /// The directory named by `RDS_PROXY_POOL_POSTGRES_BIN`, else that of the `postgres` on `PATH`, else the newest of
    /// Debian's.
    pub fn find() -> Result<Self, Failure> {
        let complete = |dir: &Path| ["initdb", "postgres"].iter().all(|name| executable(&dir.join(name)).is_some());
        let dir = match std::env::var_os("RDS_PROXY_POOL_POSTGRES_BIN").map(PathBuf::from) {
            Some(dir) if complete(&dir) => dir,
            Some(dir) => {
                let message = format!("RDS_PROXY_POOL_POSTGRES_BIN={} holds no initdb and postgres", dir.display());
                return Err(Failure::Broken(message));
            }
            None => find_program("postgres")
                .and_then(|file| Some(file.parent()?.to_owned()))
                .into_iter()
                .chain(newest_first("/usr/lib/postgresql"))
                .find(|dir| complete(dir))
                .ok_or(Failure::Missing)?,
        };
        let output = Command::new(dir.join("postgres")).arg("--version").output();
        let output = output.map_err(|error| Failure::Broken(format!("cannot run postgres --version: {error}")))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Installation { dir, user: server_user()?, version })
    }

    /// How to start one of its programs; `postgres` is asked to stop at once when we go.
    pub fn launch(&self, program: &str) -> Launch {
        Launch::new(self.dir.join(program)).user(self.user).last_words(Signal::QUIT)
    }

    /// How to start another program as the same user.
    pub fn launch_file(&self, file: PathBuf) -> Launch {
        Launch::new(file).user(self.user)
    }

    /// Runs one of its programs to the end, `input` on its standard input.
    pub fn run(&self, program: &str, home: &Path, args: &[&str], input: &str) -> Result<(), Failure> {
        let output = self.finish(program, home, args, input)?;
        if output.status.success() {
            return Ok(());
        }
        let what = format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        Err(Failure::Broken(format!("{program} {}: {what}", args.join(" "))))
    }

    /// Runs one of its programs to the end, whatever that is, and returns what it printed.
    pub fn output(&self, program: &str, home: &Path, args: &[&str]) -> Result<String, Failure> {
        let output = self.finish(program, home, args, "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn finish(&self, program: &str, home: &Path, args: &[&str], input: &str) -> Result<Output, Failure> {
        let broken = |what: String| Failure::Broken(format!("{program} {}: {what}", args.join(" ")));
        if executable(&self.dir.join(program)).is_none() {
            return Err(broken(format!("not found in {}", self.dir.display())));
        }
        let mut command = self.launch(program).command();
        command.args(args).current_dir(home);
        plain_environment(&mut command, home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| broken(error.to_string()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes()).map_err(|error| broken(error.to_string()))?;
        drop(stdin);
        child.wait_with_output().map_err(|error| broken(error.to_string()))
    }

    /// A new directory of ours that the server's user owns; those of processes that have gone are removed.
    pub fn fresh_dir(&self) -> Result<PathBuf, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = self.base()?;
        sweep(&base);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.owned_dir(base.join(format!("run-{}-{number}", std::process::id())))
    }

    /// Fills `data` with a database cluster that has our roles and settings: a copy, so that a start takes no time.
    pub fn create_cluster(&self, data: &Path) -> Result<(), Failure> {
        let template = self.template()?;
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&template).arg(data).stdin(Stdio::null());
        let output = copy.output().map_err(|error| Failure::Broken(format!("cp: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::Broken(format!("cp -a: {}", String::from_utf8_lossy(&output.stderr))))
    }

    fn template(&self) -> Result<PathBuf, Failure> {
        let mut content = DefaultHasher::new();
        (&self.version, SETTINGS, ACCESS, CONTENTS).hash(&mut content);
        let ready = self.base()?.join(format!("template-{:016x}", content.finish()));
        if ready.is_dir() {
            return Ok(ready);
        }
        let work = self.fresh_dir()?;
        let data = work.join("data");
        let place = data.to_string_lossy().into_owned();
        let options = ["-D", &place, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        let options = [&options[..], &["--no-instructions", "--wal-segsize=1"]].concat();
        self.run("initdb", &work, &options, "")?;
        self.run("postgres", &work, &["--single", "-D", &place, "postgres"], CONTENTS)?;
        append(&data.join("postgresql.conf"), SETTINGS).and_then(|()| fs::write(data.join("pg_hba.conf"), ACCESS))?;
        // Another process may have been faster; then its template serves, and ours goes.
        let _ = fs::rename(&data, &ready);
        let _ = fs::remove_dir_all(&work);
        if ready.is_dir() { Ok(ready) } else { Err(Failure::Broken(format!("{} was not made", ready.display()))) }
    }

    /// A memory file system with room, since a copy of 1,300 files takes a second on some disks; else the build
    /// directory, when the server's user can reach it; else the system's temporary directory.
    fn base(&self) -> Result<PathBuf, Failure> {
        let uid = self.user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
        let name = format!("rds-proxy-pool-servers-{uid}");
        let program = std::env::current_exe()?;
        let build = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_owned);
        let memory = Path::new("/dev/shm");
        let place = if rustix::fs::statvfs(memory).is_ok_and(|found| found.f_bavail * found.f_frsize > ROOM) {
            memory.to_owned()
        } else {
            build.filter(|dir| self.user.is_none() || open_to_all(dir)).unwrap_or_else(std::env::temp_dir)
        };
        let base = place.join(name);
        if !base.is_dir() {
            self.owned_dir(base.clone())?;
        }
        if fs::symlink_metadata(&base)?.uid() != uid {
            return Err(Failure::Broken(format!("{} belongs to somebody else", base.display())));
        }
        Ok(base)
    }

    fn owned_dir(&self, dir: PathBuf) -> Result<PathBuf, Failure> {
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        if let Some(user) = self.user {
            chown(&dir, Some(user.uid), Some(user.gid))?;
        }
        Ok(dir)
    }
}

/// Nothing of our environment reaches a server, in particular no `PG*` and no home directory.
pub fn plain_environment(command: &mut Command, home: &Path) {
    command.env_clear().env("HOME", home).env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())
}

fn newest_first(versions: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// PostgreSQL refuses to run as root.
fn server_user() -> Result<Option<User>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    if find_program("setpriv").is_none() {
        return Err(Failure::Broken("PostgreSQL refuses root, and setpriv (util-linux) is missing".to_owned()));
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        let fields: Vec<&str> = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.clone().next() == Some(name)).then(|| fields.by_ref().collect()))?;
        Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    };
    let user = find("postgres").or_else(|| find("nobody"));
    user.map(Some).ok_or_else(|| Failure::Broken("neither a user postgres nor a user nobody".to_owned()))
}

fn open_to_all(dir: &Path) -> bool {
    let there = |dir: &&Path| dir.is_dir();
    dir.parent()
        .into_iter()
        .flat_map(Path::ancestors)
        .filter(there)
        .all(|dir| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix("run-")?.split('-').next()?.parse().ok())
        else {
            continue;
        };
        let gone = rustix::process::Pid::from_raw(owner)
            .is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
        if gone {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

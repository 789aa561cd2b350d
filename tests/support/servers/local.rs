//! A server of this machine: its directory and its process.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::super::process::{POLL, Process, Signal, lasting_port};
use super::template::{Installation, plain_environment};
use super::{Failure, PATIENCE};

/// A server with a directory of its own, which goes with it.
#[derive(Debug)]
pub struct Local {
    installation: Installation,
    dir: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Local {
    /// An empty directory.
    pub fn new(installation: Installation) -> Result<Self, Failure> {
        let dir = installation.fresh_dir()?;
        Ok(Local { installation, dir, process: Mutex::new(None) })
    }

    /// Fills the directory with a new cluster.
    pub async fn create(&self) -> Result<(), Failure> {
        let (installation, data) = (self.installation.clone(), self.data());
        aside(move || installation.create_cluster(&data)).await
    }

    /// Fills the directory with a copy of the server at that port, which it will follow; what was in it is gone.
    pub async fn copy(&self, source: u16) -> Result<(), Failure> {
        let (installation, dir, data) = (self.installation.clone(), self.dir.clone(), self.data());
        aside(move || {
            if data.is_dir() {
                fs::remove_dir_all(&data)?;
            }
            let from = format!("host=127.0.0.1 port={source} user=postgres");
            let to = data.to_string_lossy().into_owned();
            // Checksums and a second connection for the log are for networks; they cost a third of the time.
            let copy = ["-d", &from, "-D", &to, "-X", "fetch", "-c", "fast", "--no-sync", "--no-manifest"];
            installation.run("pg_basebackup", &dir, &copy, "")?;
            // Nothing that was set on the source while it ran is taken over. In particular a copy that waited for a
            // standby would do so for ever once it is promoted.
            fs::write(data.join("postgresql.auto.conf"), format!("primary_conninfo = '{from}'\n"))?;
            Ok(fs::write(data.join("standby.signal"), "")?)
        })
        .await
    }

    /// Starts it on a free port.
    pub async fn start(&self) -> Result<u16, Failure> {
        // The port is free when we look; somebody may take it before the server does, so look again.
        let mut attempt = 0;
        loop {
            attempt += 1;
            let port = lasting_port()?;
            match self.run(port).await {
                Ok(()) => return Ok(port),
                Err(failure) if attempt == 3 => return Err(failure),
                Err(_) => {}
            }
        }
    }

    /// Starts the server and waits until its own status file says that it accepts connections.
    pub async fn run(&self, port: u16) -> Result<(), Failure> {
        let launch = self.installation.launch("postgres");
        let log = self.dir.join("log");
        let mut command = launch.command();
        command.arg("-D").arg(self.data()).args(["-p", &port.to_string()]);
        plain_environment(&mut command, &self.dir);
        let output = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        command.current_dir(&self.dir).stdout(output.try_clone()?).stderr(output);
        let process = launch.spawn(command)?;
        let deadline = Instant::now() + PATIENCE;
        let id = process.id().to_string();
        loop {
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let line = |number| status.lines().nth(number).unwrap_or_default().trim();
            if line(0) == id && matches!(line(7), "ready" | "standby") {
                break;
            }
            if process.try_wait().is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(Failure::Broken(format!("PostgreSQL did not start:\n{log}")));
            }
            tokio::time::sleep(POLL).await;
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }

    /// Ends it, if it runs, and waits for the end; `SIGKILL` goes to all of its processes.
    pub async fn stop(&self, signal: Signal) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            match signal {
                Signal::KILL => process.kill_tree().await,
                signal => {
                    process.signal(signal);
                    process.wait().await;
                }
            }
        }
    }

    /// The last line of the newest of its timelines: which one it continues, and from where on.
    pub fn branched_off(&self) -> Result<(u32, String), Failure> {
        let names = fs::read_dir(self.data().join("pg_wal"))?.flatten().map(|entry| entry.path());
        let newest = names.filter(|path| path.extension().is_some_and(|extension| extension == "history")).max();
        let newest = newest.ok_or_else(|| Failure::Broken("the server was never promoted".to_owned()))?;
        let history = fs::read_to_string(&newest)?;
        let mut fields = history.lines().last().unwrap_or_default().split('\t');
        let parent = fields.next().and_then(|timeline| timeline.parse().ok());
        let parent = parent.zip(fields.next().map(str::to_owned));
        parent.ok_or_else(|| Failure::Broken(format!("{}: {history}", newest.display())))
    }

    /// Where its log of a timeline has a commit at or after a position. For a server that does not run.
    pub async fn commits_from(&self, timeline: u32, position: String) -> Result<Vec<String>, Failure> {
        let (installation, dir, log) = (self.installation.clone(), self.dir.clone(), self.data().join("pg_wal"));
        let text = aside(move || {
            let (log, timeline) = (log.to_string_lossy().into_owned(), timeline.to_string());
            let args = ["-p", &log, "-t", &timeline, "-s", &position, "-r", "Transaction"];
            // It calls the end of the log an error.
            installation.output("pg_waldump", &dir, &args)
        });
        let text = text.await?;
        let commits = text.lines().filter(|line| line.contains("desc: COMMIT"));
        let position = |line: &str| Some(line.split_once("lsn: ")?.1.split_once(',')?.0.to_owned());
        Ok(commits.filter_map(position).collect())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        drop(self.process.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs what blocks without stopping the tasks of the test meanwhile.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::Broken(error.to_string())))
}

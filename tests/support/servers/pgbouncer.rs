//! PgBouncer, a pooler that shares nothing with this crate.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::process::{POLL, Process, lasting_port};
use super::super::tools;
use super::template::{Installation, plain_environment};
use super::{Failure, PATIENCE, Postgres, or_skip};

/// A running PgBouncer on 127.0.0.1, for TLS clients only; stopped and removed when dropped.
///
/// It shares two database sessions per database between its clients, a transaction at a time.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    ca_pem: String,
    dir: PathBuf,
    /// Ended before its directory goes.
    process: Option<Process>,
}

impl PgBouncer {
    /// The one user it knows. It takes no password above 2,047 characters, which is less than some IAM tokens have.
    pub const USER: &str = "by_password";
    /// That user's password.
    pub const PASSWORD: &str = "right";

    /// Starts one in front of a server, where it is `app`; `None` when there is no PgBouncer.
    pub async fn start(server: &Postgres) -> Option<PgBouncer> {
        let folder = tools::folder("pgbouncer")?;
        or_skip(Self::try_start(&folder, server.port()).await)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority to trust, for the host `localhost`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    async fn try_start(folder: &Path, server: u16) -> Result<PgBouncer, Failure> {
        let installation = Installation::find()?;
        let dir = installation.fresh_dir()?;
        // A copy, because the user it runs as may not be able to reach the build directory.
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            fs::copy(entry.path(), dir.join(entry.file_name()))?;
        }
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let certificate = certificate.map_err(|error| Failure::Broken(error.to_string()))?;
        let ca_pem = certificate.cert.pem();
        fs::write(dir.join("certificate.pem"), &ca_pem)?;
        fs::write(dir.join("key.pem"), certificate.signing_key.serialize_pem())?;
        fs::write(dir.join("users"), format!("\"{}\" \"{}\"\n", Self::USER, Self::PASSWORD))?;
        for name in ["certificate.pem", "key.pem", "users"] {
            // Nobody else reaches the directory.
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
        }
        let mut bouncer = PgBouncer { port: 0, ca_pem, dir, process: None };
        let mut attempt = 0;
        loop {
            attempt += 1;
            bouncer.port = lasting_port()?;
            match bouncer.run(&installation, server).await {
                Ok(()) => return Ok(bouncer),
                Err(failure) if attempt == 3 => return Err(failure),
                Err(_) => {}
            }
        }
    }

    async fn run(&mut self, installation: &Installation, server: u16) -> Result<(), Failure> {
        let settings = format!(
            "[databases]
* = host=127.0.0.1 port={server} user=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users
client_tls_sslmode = require
client_tls_cert_file = certificate.pem
client_tls_key_file = key.pem
server_tls_sslmode = disable
pool_mode = transaction
default_pool_size = 2
max_prepared_statements = 100
ignore_startup_parameters = extra_float_digits
",
            port = self.port
        );
        fs::write(self.dir.join("settings.ini"), settings)?;
        let launch = installation.launch_file(self.dir.join("ld.so"));
        let mut command = launch.command();
        command.arg("--library-path").arg(&self.dir).arg(self.dir.join("pgbouncer")).arg("settings.ini");
        plain_environment(&mut command, &self.dir);
        let log = self.dir.join("log");
        let output = fs::File::create(&log)?;
        command.current_dir(&self.dir).stdout(output.try_clone()?).stderr(output);
        let process = launch.spawn(command)?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if process.try_wait().is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(Failure::Broken(format!("PgBouncer did not start:\n{log}")));
            }
            tokio::time::sleep(POLL).await;
        }
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

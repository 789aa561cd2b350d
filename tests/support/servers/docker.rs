//! PostgreSQL in a container, for machines with Docker and without server binaries.

use std::sync::{Mutex, PoisonError};

use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use super::{Failure, Place, Postgres};

/// A running container; removed when dropped.
#[derive(Debug)]
pub struct Container {
    running: Mutex<Option<ContainerAsync<GenericImage>>>,
}

impl Container {
    /// Stops it at once.
    pub async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(container) = running {
            container.stop_with_timeout(Some(0)).await.expect("Docker stops the container");
        }
    }
}

/// Starts the image that `RDS_PROXY_POOL_POSTGRES_IMAGE` names, `postgres:16` by default.
pub async fn start() -> Result<Postgres, Failure> {
    let image = std::env::var("RDS_PROXY_POOL_POSTGRES_IMAGE").unwrap_or_else(|_| "postgres:16".to_owned());
    let (name, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
    let ready = WaitFor::message_on_stderr("database system is ready to accept connections");
    let container = GenericImage::new(name, tag)
        .with_exposed_port(5432.tcp())
        .with_wait_for(ready)
        .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
        .start()
        .await
        .map_err(|error| Failure::Broken(format!("Docker cannot start {image}: {error}")))?;
    // The host that testcontainers names is wrong inside a container; the port is published on loopback anyway.
    let port = container.get_host_port_ipv4(5432.tcp()).await;
    let port = port.map_err(|error| Failure::Broken(format!("Docker does not publish the port: {error}")))?;
    let server = Postgres::at(port, Place::Docker(Container { running: Mutex::new(Some(container)) }));
    // The image starts the server twice, the first time for its own initialisation.
    server.wait_ready().await;
    server.execute("CREATE ROLE app LOGIN").await;
    server.execute("CREATE ROLE with_password LOGIN PASSWORD 'a password'").await;
    server.execute("CREATE DATABASE app OWNER app").await;
    Ok(server)
}

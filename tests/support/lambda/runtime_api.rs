//! The Lambda Runtime API (version 2018-06-01), served to one handler process.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::InvocationResult;

const TRACE: &str = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0";

/// What the process told.
#[derive(Debug)]
pub enum Report {
    /// It asks for an event.
    Poll(oneshot::Sender<Event>),
    /// It answers one.
    Answer { request_id: String, result: InvocationResult },
    /// It cannot be initialised.
    InitError { kind: String, message: String },
}

/// What the process is handed.
#[derive(Debug)]
pub struct Event {
    pub request_id: String,
    pub deadline: SystemTime,
    pub function_arn: String,
    pub body: String,
}

/// The server; stops when dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl RuntimeApi {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> io::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (reports, received) = mpsc::unbounded_channel();
        let mut server = JoinSet::new();
        server.spawn(accept(listener, reports));
        Ok((RuntimeApi { address, _server: server }, received))
    }

    /// What `AWS_LAMBDA_RUNTIME_API` holds.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, reports: mpsc::UnboundedSender<Report>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let reports = reports.clone();
        let service = service_fn(move |request| {
            let reports = reports.clone();
            async move { Ok::<_, Infallible>(answer(request, reports).await) }
        });
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, reports: mpsc::UnboundedSender<Report>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix("/2018-06-01/runtime/") else { return status(StatusCode::NOT_FOUND) };
    let parts: Vec<&str> = path.split('/').collect();
    match (request.method(), &parts[..]) {
        (&Method::GET, ["invocation", "next"]) => next(&reports).await,
        (&Method::POST, ["invocation", id, what @ ("response" | "error")]) => {
            let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
            let body = body.to_bytes();
            let result = if *what == "response" { InvocationResult::Ok(read(&body)) } else { error(&body) };
            tell(&reports, Report::Answer { request_id: (*id).to_owned(), result })
        }
        (&Method::POST, ["init", "error"]) => {
            let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
            match error(&body.to_bytes()) {
                InvocationResult::HandlerError { kind, message } => tell(&reports, Report::InitError { kind, message }),
                _ => status(StatusCode::BAD_REQUEST),
            }
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

async fn next(reports: &mpsc::UnboundedSender<Report>) -> Response<Full<Bytes>> {
    let (poll, event) = oneshot::channel();
    if reports.send(Report::Poll(poll)).is_err() {
        return status(StatusCode::GONE);
    }
    let Ok(event) = event.await else { return status(StatusCode::GONE) };
    let deadline = event.deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    Response::builder()
        .header("Content-Type", "application/json")
        .header("Lambda-Runtime-Aws-Request-Id", event.request_id)
        .header("Lambda-Runtime-Deadline-Ms", deadline.to_string())
        .header("Lambda-Runtime-Invoked-Function-Arn", event.function_arn)
        .header("Lambda-Runtime-Trace-Id", TRACE)
        .body(Full::from(event.body))
        .expect("the headers are plain text")
}

fn tell(reports: &mpsc::UnboundedSender<Report>, report: Report) -> Response<Full<Bytes>> {
    status(if reports.send(report).is_ok() { StatusCode::ACCEPTED } else { StatusCode::GONE })
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(r#"{"status":"OK"}"#));
    *response.status_mut() = code;
    response
}

/// JSON as such, anything else as a string.
fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

fn error(body: &[u8]) -> InvocationResult {
    let body = read(body);
    let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    InvocationResult::HandlerError { kind: field("errorType"), message: field("errorMessage") }
}

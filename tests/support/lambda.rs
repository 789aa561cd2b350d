//! A local Lambda: runs a real handler process and plays the Runtime API to it.
//!
//! The process gets the variables Lambda sets and nothing else of our environment. Between invocations it is frozen
//! (`SIGSTOP` to its process group) as Lambda freezes it, once it has asked for its next event. A handler that exceeds
//! the function timeout is killed; the next invocation starts a new process.
//!
//! What a local freeze cannot show: Lambda pauses a whole virtual machine, `SIGSTOP` one process, whose peers and
//! clocks go on and whose sockets are still served by the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::process::{Launch, Process, Signal};
use logs::{Logs, Reader};
use runtime_api::{Report, RuntimeApi};

pub mod example;
mod logs;
mod runtime_api;

/// Lambda's own limit on the init phase of an on-demand function.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// A function: the settings, and the execution environment while there is one.
#[derive(Debug)]
pub struct LambdaFunction {
    settings: Builder,
    environment: Option<Environment>,
    logs: Logs,
    invocations: u64,
    cold_starts: u64,
}

/// How a function is set up. Defaults: 3 s timeout, 128 MB, frozen between invocations.
#[derive(Debug, Clone)]
pub struct Builder {
    program: PathBuf,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
    timeout: Duration,
    freezes: bool,
}

/// What came of one invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum InvocationResult {
    /// The handler's answer.
    Ok(Value),
    /// The handler returned an error or panicked.
    HandlerError {
        /// Its `errorType`.
        kind: String,
        /// Its `errorMessage`.
        message: String,
    },
    /// The function timeout passed and the process was killed.
    TimedOut,
    /// The process ended by itself.
    Crashed(String),
}

/// One invocation.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What came of it.
    pub result: InvocationResult,
    /// From handing out the event to the answer, as the Runtime API sees it.
    pub duration: Duration,
    /// From starting the process to its first request for an event, when this invocation started one.
    pub init: Option<Duration>,
    /// The id the handler saw.
    pub request_id: String,
}

/// The function cannot be run at all.
#[derive(Debug)]
pub enum LambdaError {
    /// The program cannot be started, or the Runtime API not be served.
    Io(io::Error),
    /// The program ended, reported an error or asked for no event within Lambda's 10 s; with what it printed.
    Init(String),
}

#[derive(Debug)]
struct Environment {
    // Dropped in this order: the process first, then the readers of its output, which ends with it.
    process: Process,
    _readers: [Reader; 2],
    api: RuntimeApi,
    reports: mpsc::UnboundedReceiver<Report>,
    /// The pending request for the next event.
    poll: Option<oneshot::Sender<runtime_api::Event>>,
    frozen: bool,
}

impl LambdaFunction {
    /// A function whose handler is the program `bin`.
    pub fn builder(bin: impl Into<PathBuf>) -> Builder {
        let variables = [
            ("AWS_LAMBDA_FUNCTION_NAME", "local-function"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/local-function"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]00000000000000000000000000000000"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            ("AWS_SESSION_TOKEN", "local-session-token"),
            ("_HANDLER", "bootstrap"),
            ("LAMBDA_TASK_ROOT", "/var/task"),
            ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
            ("LANG", "en_US.UTF-8"),
            ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
            ("TZ", ":UTC"),
        ];
        Builder {
            program: bin.into(),
            arguments: Vec::new(),
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            timeout: Duration::from_secs(3),
            freezes: true,
        }
    }

    /// Hands one event to the handler and waits for its answer, starting or thawing the process as needed.
    ///
    /// Dropping the future kills the process; the next invocation starts a new one.
    ///
    /// # Errors
    /// Only when a new process is needed and cannot be started; what the handler does wrong is in the result.
    pub async fn invoke(&mut self, event: Value) -> Result<Invocation, LambdaError> {
        let (mut environment, init) = match self.environment.take() {
            Some(environment) if environment.process.try_wait().is_none() => (environment, None),
            _ => {
                let (environment, init) = self.start_environment().await?;
                (environment, Some(init))
            }
        };
        self.invocations += 1;
        let request_id = format!("8476a536-e9f4-11e8-9739-{:012x}", self.invocations);
        environment.thaw();
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let name = &self.settings.variables["AWS_LAMBDA_FUNCTION_NAME"];
        let region = &self.settings.variables["AWS_REGION"];
        let event = runtime_api::Event {
            request_id: request_id.clone(),
            deadline: SystemTime::now() + self.settings.timeout,
            function_arn: format!("arn:aws:lambda:{region}:123456789012:function:{name}"),
            body: event.to_string(),
        };
        let result = environment.answer(event, deadline).await;
        let duration = started.elapsed();
        let ready = match &result {
            InvocationResult::Ok(_) | InvocationResult::HandlerError { .. } => environment.next_poll(deadline).await,
            InvocationResult::TimedOut | InvocationResult::Crashed(_) => false,
        };
        // What did not come back for another event is killed here, by being dropped.
        if ready {
            if self.settings.freezes {
                environment.freeze();
            }
            self.environment = Some(environment);
        }
        Ok(Invocation { result, duration, init, request_id })
    }

    /// Stops the process until [`thaw`](Self::thaw) or the next invocation; nothing when there is none.
    pub fn freeze(&mut self) {
        if let Some(environment) = &mut self.environment {
            environment.freeze();
        }
    }

    /// Lets the process run on without an event.
    pub fn thaw(&mut self) {
        if let Some(environment) = &mut self.environment {
            environment.thaw();
        }
    }

    /// Takes the environment away, as Lambda does after a while: `SIGKILL`. The next invocation is a cold start.
    pub fn recycle(&mut self) {
        self.environment = None;
    }

    /// Everything the handler printed, from all its processes; complete for those that have ended.
    pub fn logs(&self) -> String {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// How many processes were started.
    pub fn cold_starts(&self) -> u64 {
        self.cold_starts
    }

    /// The process id, while there is a process.
    pub fn process_id(&self) -> Option<u32> {
        self.environment.as_ref().map(|environment| environment.process.id())
    }

    async fn start_environment(&mut self) -> Result<(Environment, Duration), LambdaError> {
        let (api, reports) = RuntimeApi::start().await?;
        let launch = Launch::new(&self.settings.program);
        let mut command = launch.command();
        command.args(&self.settings.arguments).env_clear().envs(&self.settings.variables);
        command.env("AWS_LAMBDA_RUNTIME_API", api.address().to_string());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let started = Instant::now();
        let process = launch.spawn(command)?;
        let (stdout, stderr) = process.pipes();
        let _readers = [Reader::start(stdout, &self.logs), Reader::start(stderr, &self.logs)];
        self.cold_starts += 1;
        let mut environment = Environment { process, _readers, api, reports, poll: None, frozen: false };
        let problem = match environment.report(started + INIT_LIMIT).await {
            Ok(Report::Poll(poll)) => {
                environment.poll = Some(poll);
                return Ok((environment, started.elapsed()));
            }
            Ok(Report::InitError { kind, message }) => format!("init error {kind}: {message}"),
            Ok(Report::Answer { .. }) => "an answer without an event".to_owned(),
            Err(InvocationResult::Crashed(how)) => how,
            Err(_) => format!("no request for an event within {INIT_LIMIT:?}"),
        };
        drop(environment);
        Err(LambdaError::Init(format!("{problem}\n{}", self.logs())))
    }
}

impl Builder {
    /// Sets a variable, one of Lambda's or another.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn env_remove(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Sets an argument of the program; Lambda itself gives none.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The function timeout, 3 s by default as on Lambda.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the process is frozen between invocations; it is by default.
    pub fn freezes(mut self, freezes: bool) -> Self {
        self.freezes = freezes;
        self
    }

    /// A function without an environment: the first invocation is a cold start.
    pub fn idle(self) -> LambdaFunction {
        let logs = Logs::default();
        LambdaFunction { settings: self, environment: None, logs, invocations: 0, cold_starts: 0 }
    }

    /// Starts the process ahead of the first invocation, as Lambda may do, and freezes it.
    ///
    /// # Errors
    /// As [`LambdaFunction::invoke`].
    pub async fn start(self) -> Result<LambdaFunction, LambdaError> {
        let mut function = self.idle();
        let (mut environment, _) = function.start_environment().await?;
        if function.settings.freezes {
            environment.freeze();
        }
        function.environment = Some(environment);
        Ok(function)
    }
}

impl Environment {
    fn freeze(&mut self) {
        if std::mem::replace(&mut self.frozen, true) {
            return;
        }
        self.process.signal_group(Signal::STOP);
        // The signal is on its way when the call returns; where the kernel tells, wait until it has arrived.
        let patience = Instant::now() + Duration::from_secs(1);
        while self.process.state().is_some_and(|state| !matches!(state, 'T' | 'Z')) && Instant::now() < patience {
            std::thread::yield_now();
        }
    }

    fn thaw(&mut self) {
        if std::mem::replace(&mut self.frozen, false) {
            self.process.signal_group(Signal::CONT);
        }
    }

    async fn answer(&mut self, event: runtime_api::Event, deadline: Instant) -> InvocationResult {
        let expected = event.request_id.clone();
        let asked = self.poll.take().is_some_and(|poll| poll.send(event).is_ok());
        if !asked {
            return InvocationResult::Crashed("the process gave up its request for an event".to_owned());
        }
        loop {
            match self.report(deadline).await {
                Ok(Report::Answer { request_id, result }) if request_id == expected => return result,
                Ok(Report::Answer { .. } | Report::InitError { .. }) => {}
                Ok(Report::Poll(poll)) => self.poll = Some(poll),
                Err(end) => return end,
            }
        }
    }

    /// Whether the process has asked for another event.
    async fn next_poll(&mut self, deadline: Instant) -> bool {
        while self.poll.is_none() {
            match self.report(deadline).await {
                Ok(Report::Poll(poll)) => self.poll = Some(poll),
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The next thing the process tells, unless its time or its life ends first.
    async fn report(&mut self, deadline: Instant) -> Result<Report, InvocationResult> {
        tokio::select! {
            biased;
            Some(report) = self.reports.recv() => Ok(report),
            status = self.process.wait() => match self.reports.try_recv() {
                // Its last report may have arrived together with its end.
                Ok(report @ (Report::Answer { .. } | Report::InitError { .. })) => Ok(report),
                _ => Err(InvocationResult::Crashed(format!("the process ended: {status}"))),
            },
            () = tokio::time::sleep_until(deadline.into()) => Err(InvocationResult::TimedOut),
        }
    }
}

impl Invocation {
    /// The handler's answer, or in words what came instead.
    pub fn value(&self) -> Result<&Value, String> {
        match &self.result {
            InvocationResult::Ok(value) => Ok(value),
            InvocationResult::HandlerError { kind, message } => Err(format!("{kind}: {message}")),
            InvocationResult::TimedOut => Err("the function timed out".to_owned()),
            InvocationResult::Crashed(how) => Err(how.clone()),
        }
    }
}

impl fmt::Display for LambdaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LambdaError::Io(error) => write!(f, "the handler cannot be started: {error}"),
            LambdaError::Init(what) => write!(f, "the handler failed in its init phase: {what}"),
        }
    }
}

impl std::error::Error for LambdaError {}

impl From<io::Error> for LambdaError {
    fn from(error: io::Error) -> Self {
        LambdaError::Io(error)
    }
}

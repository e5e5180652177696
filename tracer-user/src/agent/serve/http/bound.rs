//! What answers may hold: bytes that wait for clients, and places until the client has taken all of it.

use super::Problem;
use crate::agent::request::MAX_DOCUMENT;
use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use sfgi_core::budget;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all answers that were made of pictures and not taken yet. A client that asks and does not read keeps its
/// answer in our memory; this is enough for dozens of pages.
const IN_FLIGHT: usize = 16 << 20;

/// Bytes of all documents and profiles that are being made, or were not taken yet. They have room of their own: two of
/// them would leave none for others.
const DOCUMENTS_IN_FLIGHT: usize = 2 * MAX_DOCUMENT;

/// What an answer without a known length counts for: what a stream buffers for a slow client (`BEHIND` in
/// `core/stream.rs`).
const STREAM: usize = 4 << 20;

/// The largest piece that is handed to hyper at a time. It takes the next one only when this one is on its way.
const PIECE: usize = 64 << 10;

/// Places for requests, and for the bytes of their answers.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    requests: Arc<Semaphore>,
    pub(super) flight: Flight,
}

impl Bounds {
    pub(super) fn new(max_requests: usize, flight: Flight) -> Bounds {
        Bounds { requests: Arc::new(Semaphore::new(max_requests)), flight }
    }
}

/// Answers a request, and keeps its place until the client has taken the answer.
pub(super) async fn hold(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let Ok(place) = Arc::clone(&bounds.requests).try_acquire_owned() else {
        return too_much("too many requests at a time: try again").into_response();
    };
    let mut response = next.run(request).await;
    let weighed = response.extensions_mut().remove::<Weighed>().is_some();
    let weight = match response.body().size_hint().exact() {
        _ if weighed => Ok(None),
        Some(length) => bounds.flight.reserve(usize::try_from(length).unwrap_or(usize::MAX)).map(Some),
        None => bounds.flight.reserve(STREAM).map(Some),
    };
    match weight {
        Ok(weight) => response.map(|body| held(body, (place, weight))),
        Err(problem) => problem.into_response(),
    }
}

/// Marks a response whose bytes count already, once for all who are sent the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighed;

/// Counts the bytes of answers.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    room: Arc<Semaphore>,
    most: usize,
}

impl Default for Flight {
    fn default() -> Self {
        // Of the memory that this process may take a quarter, and half for documents: the rest is what answers are made of.
        Flight::new(IN_FLIGHT.min(budget::limit() / 4))
    }
}

/// Room for an answer, until this is dropped.
#[derive(Debug)]
pub(super) struct Room(OwnedSemaphorePermit);

impl Room {
    /// Gives back what the answer does not need.
    pub(super) fn shrink(mut self, bytes: usize) -> Room {
        // `None`: it needs more than was reserved, which stays as it is.
        self.0.split(bytes).map_or(self, Room)
    }
}

impl Flight {
    fn new(most: usize) -> Flight {
        Flight { room: Arc::new(Semaphore::new(most)), most }
    }

    /// For documents and profiles.
    pub(super) fn of_documents() -> Flight {
        Flight::new(DOCUMENTS_IN_FLIGHT.min(budget::limit() / 2))
    }

    /// Makes room for a document whose length is not known yet.
    pub(super) fn document(&self) -> Result<Room, Problem> {
        self.reserve(MAX_DOCUMENT).map(Room)
    }

    /// Makes room for an answer. One that is larger than all room is let through alone.
    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| too_much("clients have not taken their answers yet, and there is no room for more"))
    }

    /// Bytes that count until the last of those who are sent them has taken them.
    pub(super) fn share(&self, text: String) -> Result<Bytes, Problem> {
        struct Counted(String, #[expect(dead_code, reason = "holds the room")] OwnedSemaphorePermit);
        impl AsRef<[u8]> for Counted {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        let room = self.reserve(text.len())?;
        Ok(Bytes::from_owner(Counted(text, room)))
    }
}

fn too_much(error: &str) -> Problem {
    Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(1))
}

/// A body that holds something until its client has taken it, or has gone.
pub(super) fn held<T: Unpin + Send + 'static>(body: Body, held: T) -> Body {
    Body::new(Held { body, rest: Bytes::new(), _held: held })
}

struct Held<T> {
    body: Body,
    /// What of the last piece of `body` was not handed on yet.
    rest: Bytes,
    _held: T,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, middleware::from_fn_with_state, routing::get};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    fn router(max_requests: usize, length: usize) -> (Router, Bounds) {
        let bounds = Bounds::new(max_requests, Flight::default());
        let answer = get(move || async move { vec![0_u8; length] });
        let router = Router::new().route("/", answer).layer(from_fn_with_state(bounds.clone(), hold));
        (router, bounds)
    }

    async fn ask(router: &Router) -> Response {
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn answers_that_nobody_takes_have_a_bound_and_come_in_pieces() {
        run(async {
            let (router, bounds) = router(1000, IN_FLIGHT / 4);
            let mut waiting: Vec<Response> = Vec::new();
            for _ in 0..4 {
                waiting.push(ask(&router).await);
            }
            assert!(waiting.iter().all(|answer| answer.status() == StatusCode::OK));
            let refused = ask(&router).await;
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(refused.headers().contains_key("retry-after"));
            let taken = waiting.pop().unwrap();
            assert_eq!(taken.body().size_hint().exact(), Some((IN_FLIGHT / 4) as u64));
            let mut body = taken.into_body();
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(piece.len() <= PIECE);
                length += piece.len();
            }
            assert_eq!(length, IN_FLIGHT / 4);
            drop(body);
            assert_eq!(ask(&router).await.status(), StatusCode::OK);
            drop(waiting);
            assert_eq!(bounds.flight.room.available_permits(), IN_FLIGHT);
        });
    }

    #[test]
    fn a_place_is_kept_until_the_answer_was_taken() {
        run(async {
            let (router, _) = router(2, 10);
            let (one, two) = (ask(&router).await, ask(&router).await);
            assert_eq!(ask(&router).await.status(), StatusCode::SERVICE_UNAVAILABLE);
            drop(one);
            assert_eq!(ask(&router).await.status(), StatusCode::OK);
            drop(two);
        });
    }

    #[test]
    fn what_many_are_sent_counts_once() {
        let flight = Flight::default();
        let shared = flight.share("x".repeat(1000)).unwrap();
        let copies = [shared.clone(), shared];
        assert_eq!(flight.room.available_permits(), IN_FLIGHT - 1000);
        drop(copies);
        assert_eq!(flight.room.available_permits(), IN_FLIGHT);
    }
}

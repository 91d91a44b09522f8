//! Every error of the interface: RFC 9457 problem details, and the one place that turns errors into answers.
//!
//! A problem's `type` is `/problems/<word>`, a path of this server that explains it; the words are stable. What a caller
//! cannot know or mend is logged here, once and with all its causes, under an `id` that the caller is told instead.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::alert::DeskError;
use crate::model::WindowsError;
use crate::query::aggregate::AggregateError;
use crate::query::ask::AskError;
use crate::state::StateError;
use crate::store::LakeError;

/// The media type of problems.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// What sort of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Query or path.
    InvalidParameters,
    /// The body cannot be read.
    InvalidBody,
    /// Nobody is known by what was sent.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// No such route, or no such thing.
    NotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// No such format.
    NotAcceptable,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The thing is not in a state for it.
    Conflict,
    /// The body is too long.
    BodyTooLarge,
    /// The address is too long.
    AddressTooLong,
    /// The body has another media type.
    UnsupportedMediaType,
    /// Another host was meant.
    Misdirected,
    /// Nothing of a message is accepted.
    Refused,
    /// The rules contradict themselves or the city.
    InvalidRules,
    /// What is said of devices contradicts itself.
    InvalidRegistry,
    /// The thing is another than the caller looked at.
    PreconditionFailed,
    /// A statement is not understood, or does more than read.
    InvalidStatement,
    /// The question makes no sense, for this property for instance.
    InvalidQuestion,
    /// The question would take more than questions may.
    QuestionTooLarge,
    /// A fault of ours.
    Internal,
    /// Files of the table are missing.
    StoreDamaged,
    /// The store does not answer.
    StoreUnavailable,
    /// No room on the disk.
    NoSpace,
    /// As many as are allowed are there already.
    Busy,
    /// It took too long.
    Timeout,
    /// The program is stopping.
    Stopping,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 27] = [
        Self::InvalidParameters,
        Self::InvalidBody,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::AddressTooLong,
        Self::UnsupportedMediaType,
        Self::Misdirected,
        Self::Refused,
        Self::InvalidRules,
        Self::InvalidRegistry,
        Self::PreconditionFailed,
        Self::InvalidStatement,
        Self::InvalidQuestion,
        Self::QuestionTooLarge,
        Self::Internal,
        Self::StoreDamaged,
        Self::StoreUnavailable,
        Self::NoSpace,
        Self::Busy,
        Self::Timeout,
        Self::Stopping,
    ];

    /// Status, stable word, title, and what to do about it.
    fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidParameters => (
                S::BAD_REQUEST,
                "invalid-parameters",
                "Invalid parameters",
                "`errors` names each parameter and says what it must be. Unknown parameters are refused too: a misspelt filter would answer another question.",
            ),
            Self::InvalidBody => (S::BAD_REQUEST, "invalid-body", "Invalid body", "The body is not JSON or CSV of the described form."),
            Self::Unauthenticated => (
                S::UNAUTHORIZED,
                "unauthenticated",
                "Who are you?",
                "Send a token that this server knows: `Authorization: Bearer …`. `conca token` makes one.",
            ),
            Self::Forbidden => (
                S::FORBIDDEN,
                "forbidden",
                "Not allowed",
                "The token's role does not reach: read, operate and admin each include those before.",
            ),
            Self::NotFound => {
                (S::NOT_FOUND, "not-found", "Not found", "There is no such address or no such thing. /docs lists all addresses.")
            }
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", "The header `Allow` lists the methods of this address.")
            }
            Self::NotAcceptable => (
                S::NOT_ACCEPTABLE,
                "not-acceptable",
                "No such format",
                "`detail` lists the formats of this address; ask with `Accept` or `?format=`.",
            ),
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request-timeout", "The request took too long to arrive", "Send the body faster, or less of it.")
            }
            Self::Refused => (
                S::UNPROCESSABLE_ENTITY,
                "refused",
                "Nothing of it is accepted",
                "The message is in the quarantine, with the same reasons; it can be replayed from there once they are mended.",
            ),
            Self::Conflict => {
                (S::CONFLICT, "conflict", "Not in this state", "What is asked for is not possible any more, or not yet. Look at it again.")
            }
            Self::BodyTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too long", "The longest body is configured in `api.body_bytes_max`.")
            }
            Self::AddressTooLong => {
                (S::URI_TOO_LONG, "address-too-long", "The address is too long", "Ask for fewer devices or properties at once.")
            }
            Self::UnsupportedMediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
                "`detail` says which `Content-Type` is expected.",
            ),
            Self::Misdirected => (
                S::MISDIRECTED_REQUEST,
                "misdirected",
                "Another host was meant",
                "Without tokens this server answers under a loopback address only, so that no web page can reach it under a name of its own. Configure `api.tokens` to use other names.",
            ),
            Self::InvalidRules => (
                S::UNPROCESSABLE_ENTITY,
                "invalid-rules",
                "The rules are not valid",
                "`errors` lists every problem with its place in the document. Nothing has changed.",
            ),
            Self::InvalidRegistry => (
                S::UNPROCESSABLE_ENTITY,
                "invalid-registry",
                "What is said of devices is not valid",
                "`errors` lists every problem with its place: line and column of CSV, JSON pointer of JSON. Nothing has changed.",
            ),
            Self::PreconditionFailed => (
                S::PRECONDITION_FAILED,
                "precondition-failed",
                "Changed by somebody else",
                "`If-Match` or `If-None-Match` does not hold any more: look at it again, then decide.",
            ),
            Self::InvalidStatement => (
                S::BAD_REQUEST,
                "invalid-statement",
                "The statement cannot be answered",
                "`errors` says what is wrong, and where in the statement. Only one statement that reads is possible.",
            ),
            Self::InvalidQuestion => (
                S::UNPROCESSABLE_ENTITY,
                "invalid-question",
                "The question makes no sense",
                "Each parameter is valid, but not together; `detail` says why.",
            ),
            Self::QuestionTooLarge => (
                S::UNPROCESSABLE_ENTITY,
                "question-too-large",
                "The question is too large",
                "Ask for less time, fewer devices, or larger steps; limits are in `query`, `sql` and `lake.memory_mib` of the configuration.",
            ),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "A fault of this server", "The log tells more under the `id`."),
            Self::StoreDamaged => (
                S::INTERNAL_SERVER_ERROR,
                "store-damaged",
                "Files of the store are missing",
                "`detail` names them: restore them from a backup. Intake goes on.",
            ),
            Self::StoreUnavailable => {
                (S::SERVICE_UNAVAILABLE, "store-unavailable", "The store does not answer", "Try again; the log tells more under the `id`.")
            }
            Self::NoSpace => (S::SERVICE_UNAVAILABLE, "no-space", "The disk is full", "Nothing has changed. Make room, then try again."),
            Self::Busy => (S::SERVICE_UNAVAILABLE, "busy", "Busy", "As many questions or streams as are allowed are under way. Try again."),
            Self::Timeout => {
                (S::SERVICE_UNAVAILABLE, "timeout", "It took too long", "Ask for less, or raise `query.timeout` or `sql.timeout`.")
            }
            Self::Stopping => (S::SERVICE_UNAVAILABLE, "stopping", "The server is stopping", "Try again once it runs."),
        }
    }

    /// Its stable word.
    pub(super) fn word(self) -> &'static str {
        self.facts().1
    }

    /// What `/problems/<word>` says.
    pub(super) fn explanation(self) -> Explanation {
        let (status, word, title, remedy) = self.facts();
        Explanation { r#type: format!("/problems/{word}"), title, status: status.as_u16(), remedy }
    }
}

/// What a type of problem means.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Explanation {
    /// As in problems.
    #[schema(example = "/problems/invalid-parameters")]
    r#type: String,
    /// For people.
    #[schema(value_type = String)]
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// What to do about it.
    #[schema(value_type = String)]
    remedy: &'static str,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Violation {
    /// `query`, `path`, `header` or `body`.
    #[schema(value_type = String, example = "query")]
    pub(crate) r#in: &'static str,
    /// The parameter's name, or the place in the body.
    #[schema(example = "from")]
    pub(crate) name: String,
    /// What is wrong, and what it must be.
    #[schema(example = "\"yesterday\" is not a time such as 2026-01-31T08:00:00+01:00, 1767254400000, now or now-24h")]
    pub(crate) problem: String,
}

/// A problem as it is sent (RFC 9457).
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Details {
    /// Stable; the address of an explanation.
    #[schema(example = "/problems/invalid-parameters")]
    r#type: String,
    /// For people; the same for the same type.
    #[schema(value_type = String, example = "Invalid parameters")]
    title: &'static str,
    /// HTTP status.
    #[schema(example = 400)]
    status: u16,
    /// What happened this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Everything that is wrong with the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
    /// Under which the log tells more.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    detail: Option<String>,
    errors: Vec<Violation>,
    id: Option<String>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
}

impl Problem {
    /// A problem with what happened this time, in words for the caller.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = Some(detail.into());
        Self(Box::new(Parts { kind, detail, errors: Vec::new(), id: None, retry_after: None, challenge: None }))
    }

    /// Everything that is wrong with a request.
    pub(crate) fn invalid(kind: Kind, errors: Vec<Violation>) -> Self {
        let names: Vec<&str> = errors.iter().map(|error| error.name.as_str()).filter(|name| !name.is_empty()).collect();
        let mut problem = Self::new(kind, names.join(", "));
        problem.0.errors = errors;
        problem
    }

    /// No thing of that kind has that name.
    pub(crate) fn not_found(what: &str, name: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound, format!("there is no {what} {name}"))
    }

    /// A fault of ours: logged with all its causes, told by its id only.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::logged(Kind::Internal, error)
    }

    /// A fault of ours without an error that says so.
    pub(super) fn unexpected(what: &str) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        tracing::error!(id, what, "a request failed");
        Self::new(Kind::Internal, "").with_id(id)
    }

    /// What the operator must look at, and the caller learns the kind and an id of.
    fn logged(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        tracing::error!(id, error = crate::error_chain(error), "a request failed");
        Self::new(kind, "").with_id(id)
    }

    fn with_id(mut self, id: String) -> Self {
        self.0.id = Some(id);
        self
    }

    /// When it makes sense to try again.
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// How to authenticate (RFC 9110, 11.6.1).
    #[must_use]
    pub(super) fn challenge(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// Which sort.
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Everything that is wrong with the request.
    #[cfg(test)]
    pub(super) fn violations(&self) -> &[Violation] {
        &self.0.errors
    }

    fn detailed(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into().into_owned());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts { kind, detail, errors, id, retry_after, challenge } = *self.0;
        let (status, word, title, _remedy) = kind.facts();
        let detail = detail.filter(|detail| !detail.is_empty());
        let body = Details { r#type: format!("/problems/{word}"), title, status: status.as_u16(), detail, errors, id };
        let body = serde_json::to_vec(&body).expect("plain data always serialises");
        let mut response = (status, [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], body).into_response();
        let headers = response.headers_mut();
        // Whoever is told to come back needs to know when.
        let retry_after = retry_after.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5)));
        if let Some(wait) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        match error {
            StateError::NoSpace(_) => Self::logged(Kind::NoSpace, &error).retry_after(Duration::from_secs(30)),
            StateError::InUse(_)
            | StateError::Folder { .. }
            | StateError::NewerSchema { .. }
            | StateError::Damaged(_)
            | StateError::Sqlite(_) => Self::internal(&error),
        }
    }
}

impl From<LakeError> for Problem {
    fn from(error: LakeError) -> Self {
        /// So many of the missing files are named.
        const NAMED: usize = 10;
        match error {
            LakeError::TooLarge(_) => {
                tracing::debug!(error = crate::error_chain(&error), "a question is too large");
                Self::new(
                    Kind::QuestionTooLarge,
                    "it needs more memory than questions may have; others under way may have their part in it",
                )
            }
            LakeError::Broken { ref files, .. } => {
                let named = files.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let text = format!("{} files are missing or cut short: {named}", files.len());
                Self::logged(Kind::StoreDamaged, &error).detailed(text)
            }
            LakeError::State(error) => error.into(),
            LakeError::Stopped => Self::new(Kind::Stopping, ""),
            LakeError::Delta(_) | LakeError::Influx(_) | LakeError::Unopened | LakeError::Unreadable(_) => {
                Self::logged(Kind::StoreUnavailable, &error)
            }
            LakeError::Location(_)
            | LakeError::Remote(_)
            | LakeError::Storage(_)
            | LakeError::Sync(_)
            | LakeError::Query(_)
            | LakeError::Unknown { .. } => Self::internal(&error),
        }
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let parameter = |name: &str| {
            let violation = Violation { r#in: "query", name: name.to_owned(), problem: error.to_string() };
            Self::invalid(Kind::InvalidParameters, vec![violation])
        };
        match error {
            AskError::UnknownDevice(_) => parameter("device"),
            AskError::UnknownKind { .. } => parameter("kind"),
            AskError::EmptyRange | AskError::Windows(WindowsError::Empty { .. }) => parameter("from"),
            AskError::PageSize { .. } => parameter("limit"),
            AskError::Function(_) | AskError::NoCounter(_) => Self::new(Kind::InvalidQuestion, error.to_string()),
            AskError::Windows(WindowsError::TooMany { .. })
            | AskError::TooManyTimes { .. }
            | AskError::TooManyMeters { .. }
            | AskError::Aggregate(AggregateError::TooManySlots { .. } | AggregateError::TooManyRows { .. })
            | AskError::TooManyKinds(_) => Self::new(Kind::QuestionTooLarge, error.to_string()),
            AskError::Aggregate(AggregateError::Unordered { .. } | AggregateError::Moved { .. }) => Self::internal(&error),
            AskError::Store(error) => error.into(),
            AskError::Stopped => Self::new(Kind::Stopping, ""),
        }
    }
}

impl From<DeskError> for Problem {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Invalid { problems } => {
                let errors = problems.into_iter().map(|problem| Violation { r#in: "body", name: problem.key, problem: problem.problem });
                Self::invalid(Kind::InvalidRules, errors.collect())
            }
            DeskError::State(error) => error.into(),
            DeskError::Unreadable { .. } | DeskError::Damaged(_) => Self::internal(&error),
        }
    }
}

/// What any request may meet, for the description of endpoints.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum Errors {
    /// A parameter is unknown, missing or not what it must be: `errors` lists all of them.
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(Details),
    /// The server has tokens, and none of them was sent.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Details),
    /// The token's role does not reach.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Details),
    /// No such format; `detail` lists those there are.
    #[response(status = 406, content_type = "application/problem+json")]
    NotAcceptable(Details),
    /// A fault of the server, logged under the `id`.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Details),
    /// Busy, stopping, or out of time or room: `Retry-After` says when to come back.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Details),
}

/// What a request with a body may meet besides, for the description of endpoints.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum BodyErrors {
    /// The body did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Late(Details),
    /// The body is longer than `api.body_bytes_max`.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Details),
    /// The body is declared as another media type.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(Details),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stable_and_differ() {
        let words: std::collections::BTreeSet<&str> = Kind::ALL.into_iter().map(Kind::word).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        assert_eq!(Kind::ALL.into_iter().filter(|kind| kind.explanation().status < 400).count(), 0);
    }

    #[test]
    fn what_the_operator_must_know_is_not_told_to_the_caller() {
        let problem = Problem::from(StateError::Damaged("secret".to_owned()));
        assert!(problem.0.id.is_some());
        assert!(!format!("{:?}", problem.0).contains("secret"));
    }
}

//! Parameters of requests. An unknown parameter or a wrong value is refused with a sentence (status 400).

use super::Problem;
use crate::{agent::request::Filter, output::graph::GraphFormat, parse};
use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use regex::{Regex, RegexBuilder};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use sfgi_core::{detect::Verdict, event::Mode, goruntime::State};
use std::time::Duration;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// The largest page of a list; a dump of goroutines as text has as many at most.
pub(super) const MAX_LIMIT: usize = 10_000;

/// The limit of a compiled regular expression of a request, bytes: a client must not make the agent build a huge one.
const REGEX_SIZE: usize = 1 << 20;

/// The query of a request as a `T`; axum's `Query` would answer a wrong one with plain text.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        let Query(params) = query.map_err(|error| Problem::bad(refusal(&error.body_text())))?;
        Ok(Params(params))
    }
}

/// What is wrong with a query, in our words: axum and serde speak of fields, variants and digits (`Failed to deserialize
/// query string: pid: invalid digit found in string`).
fn refusal(text: &str) -> String {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let (name, what) = match text.split_once(": ") {
        Some((name, what)) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
            (name, what)
        }
        _ => ("", text),
    };
    let names = quoted(what);
    let (first, rest) = names.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if what.starts_with("unknown field") {
        let allowed = if rest.is_empty() { "this path takes none".to_owned() } else { rest.join(", ") };
        let allowed = if rest.is_empty() { allowed } else { format!("those are {allowed}") };
        format!("there is no parameter {first}: {allowed}")
    } else if what.starts_with("missing field") {
        format!("the parameter {first} is missing")
    } else if what.starts_with("duplicate field") {
        format!("the parameter {first} stands there twice")
    } else if what.starts_with("unknown variant") {
        format!("{name} is {first:?}: give {}", rest.join(", "))
    } else if what.starts_with("invalid digit") || what.starts_with("cannot parse") {
        format!("{name} is no whole number from 0 on")
    } else if what.starts_with("number too large") {
        format!("{name} is too large a number")
    } else if what.starts_with("provided string was not") {
        format!("{name} is neither true nor false")
    } else {
        text.to_owned()
    }
}

/// A route without parameters: any is refused, so that none is silently ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Which of the processes.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProcessParams {
    /// Only the process with this PID.
    #[serde(default, deserialize_with = "some_pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: Option<u32>,
    /// Leave out this many at the beginning.
    #[serde(default)]
    pub(super) skip: usize,
    /// At most this many processes.
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    pub(super) limit: usize,
}

/// Which of the findings.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LeakParams {
    /// Only findings of the process with this PID.
    #[serde(default, deserialize_with = "some_pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: Option<u32>,
    /// Only findings of this service.
    pub(super) service: Option<String>,
    /// Only findings of this class of the catalogue.
    pub(super) class: Option<String>,
    /// Only findings with this verdict, or a surer one.
    #[param(inline, value_type = Option<VerdictSchema>)]
    pub(super) verdict: Option<Verdict>,
    /// Only findings of at least this many goroutines.
    #[serde(default, deserialize_with = "int64")]
    pub(super) min_count: u64,
    /// Leave out this many at the beginning.
    #[serde(default)]
    pub(super) skip: usize,
    /// At most this many findings.
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    pub(super) limit: usize,
}

/// The schema of [`Verdict`], which belongs to sfgi-core: that crate knows nothing of HTTP.
struct VerdictSchema;

impl PartialSchema for VerdictSchema {
    fn schema() -> RefOr<Schema> {
        let words =
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Verdict::ALL.map(Verdict::word)));
        words.description(Some("How sure a finding is.")).into()
    }
}

impl ToSchema for VerdictSchema {}

/// Which goroutines of a process, and in which form.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GoroutineParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pid: u32,
    /// Only goroutines in this state.
    #[param(inline)]
    state: Option<StateParam>,
    /// Only goroutines with a wait reason that this regular expression matches.
    reason: Option<String>,
    /// Only goroutines with a function on the stack, or a creator, that this regular expression matches.
    func: Option<String>,
    /// Only goroutines that have been waiting for at least this long: `90s`, `5m`.
    #[param(pattern = r"^[0-9]{1,6}(ms|s|m|h)$")]
    older: Option<String>,
    /// Only the goroutine with this id.
    #[serde(default, deserialize_with = "some_int64")]
    goid: Option<u64>,
    /// Include the runtime's own goroutines.
    #[serde(default)]
    system: bool,
    /// Groups of goroutines with the same stack, in place of goroutines.
    #[serde(default)]
    pub(super) group: bool,
    /// Leave out this many at the beginning.
    #[serde(default)]
    skip: usize,
    /// At most this many goroutines or groups.
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 10_000, default = 100)]
    limit: usize,
}

/// The waits of which process, and in which form.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GraphParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: u32,
    /// The language.
    #[serde(default)]
    #[param(inline)]
    pub(super) format: GraphFormat,
}

/// A state of a goroutine, in the runtime's words.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StateParam {
    Runnable,
    Running,
    Syscall,
    Waiting,
    Leaked,
    Preempted,
}

impl GoroutineParams {
    /// The PID, and the conditions for the core.
    pub(super) fn filter(&self) -> Result<(u32, Filter), Problem> {
        let states = match self.state {
            None => Vec::new(),
            Some(StateParam::Runnable) => vec![State::Runnable],
            Some(StateParam::Running) => vec![State::Running],
            Some(StateParam::Syscall) => vec![State::Syscall],
            // A goroutine that the collector has found to be leaked (`_Gleaked`, `runtime2.go`, 1.26) waits, too.
            Some(StateParam::Waiting) => vec![State::Waiting, State::Leaked],
            Some(StateParam::Leaked) => vec![State::Leaked],
            Some(StateParam::Preempted) => vec![State::Preempted],
        };
        let older = self.older.as_deref().map(parse::time_with_unit).transpose();
        let older = older.map_err(|error| Problem::bad(error.to_string()))?;
        let filter = Filter {
            states,
            reason: self.reason.as_deref().map(regex).transpose()?,
            func: self.func.as_deref().map(regex).transpose()?,
            older: older.unwrap_or_default(),
            goids: self.goid.into_iter().collect(),
            system: self.system,
            skip: self.skip,
            limit: page(self.limit)?,
        };
        Ok((self.pid, filter))
    }
}

/// Which processes are scanned.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TriggerParams {
    /// Only the process with this PID; without it all of them.
    #[serde(default, deserialize_with = "some_pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: Option<u32>,
}

/// Which process is traced, and for how long.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TraceParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: u32,
    /// How long the trace lasts at most, in seconds.
    #[serde(default = "ten")]
    #[param(minimum = 1, maximum = 600, default = 10)]
    seconds: u64,
}

impl TraceParams {
    pub(super) fn seconds(self) -> Result<Duration, Problem> {
        within(self.seconds, 600)
    }
}

/// Which process is profiled, and for how long.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProfileParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: u32,
    /// The form of the profile: 0, as pprof reads it, is the only one.
    #[serde(default, rename = "debug")]
    #[param(inline)]
    _form: Compressed,
    /// How long `block` watches, in seconds; the other profiles take no time.
    #[serde(default = "ten")]
    #[param(minimum = 1, maximum = 300, default = 10)]
    seconds: u64,
}

/// Which process is profiled, and in which form.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GoroutineProfileParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: u32,
    /// The form of the profile: 0 as pprof reads it, 2 as text.
    #[serde(default)]
    #[param(inline)]
    pub(super) debug: CompressedOrText,
    /// As for other profiles, in seconds; this one takes no time.
    #[serde(default = "ten")]
    #[param(minimum = 1, maximum = 300, default = 10)]
    seconds: u64,
}

/// The only form of most profiles. `net/http/pprof` calls the parameter `debug`.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
enum Compressed {
    #[default]
    #[serde(rename = "0")]
    Compressed,
}

/// The forms of a goroutine profile, as `net/http/pprof` numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(super) enum CompressedOrText {
    #[default]
    #[serde(rename = "0")]
    Compressed,
    #[serde(rename = "2")]
    Text,
}

impl ProfileParams {
    pub(super) fn seconds(self) -> Result<Duration, Problem> {
        within(self.seconds, 300)
    }
}

impl GoroutineProfileParams {
    /// The same request, for the form that pprof reads.
    pub(super) fn compressed(self) -> ProfileParams {
        ProfileParams { pid: self.pid, _form: Compressed::Compressed, seconds: self.seconds }
    }
}

/// The mode that a process should have.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ModeParams {
    /// The PID of the process.
    #[serde(deserialize_with = "pid")]
    #[param(minimum = 1, maximum = 4_194_304)]
    pub(super) pid: u32,
    /// The mode; without it that of the configuration again.
    #[param(inline, value_type = Option<ModeSchema>)]
    pub(super) mode: Option<Mode>,
}

/// The schema of [`Mode`], which belongs to sfgi-core: that crate knows nothing of HTTP.
struct ModeSchema;

impl PartialSchema for ModeSchema {
    fn schema() -> RefOr<Schema> {
        let words =
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Mode::ALL.map(Mode::word)));
        words.description(Some("How closely a process is watched.")).into()
    }
}

impl ToSchema for ModeSchema {}

/// The largest PID of Linux (`PID_MAX_LIMIT`, `include/linux/threads.h`).
const MAX_PID: u32 = 4_194_304;

fn pid<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let pid = u32::deserialize(from)?;
    if (1..=MAX_PID).contains(&pid) {
        return Ok(pid);
    }
    Err(D::Error::custom(format!("{pid} is no PID: they are 1 to {MAX_PID}")))
}

/// A number of the format `int64`, as the OpenAPI document calls it: it has no sign, and yet ends at `i64::MAX`.
fn int64<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    if i64::try_from(number).is_ok() {
        return Ok(number);
    }
    Err(D::Error::custom(format!("{number} is more than {}", i64::MAX)))
}

fn some_int64<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    int64(from).map(Some)
}

fn some_pid<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    pid(from).map(Some)
}

/// The size of a page, or a refusal.
pub(super) fn page(limit: usize) -> Result<usize, Problem> {
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad(format!(
        "limit is {limit}: give 1 to {MAX_LIMIT}, and skip for the pages after the first"
    )))
}

fn within(seconds: u64, most: u64) -> Result<Duration, Problem> {
    if (1..=most).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(Problem::bad(format!("seconds is {seconds}: give 1 to {most}")))
}

fn regex(text: &str) -> Result<Regex, Problem> {
    let built = RegexBuilder::new(text).size_limit(REGEX_SIZE).build();
    built.map_err(|_| Problem::bad(format!("{text:?} is no regular expression, or too large a one")))
}

fn hundred() -> usize {
    100
}

fn ten() -> u64 {
    10
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Uri;

    fn said<T: DeserializeOwned>(query: &str) -> String {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        Query::<T>::try_from_uri(&uri).err().map(|error| refusal(&error.body_text())).unwrap_or_default()
    }

    #[test]
    fn refusals_are_in_our_words() {
        assert_eq!(said::<Nothing>("pid=1"), "there is no parameter pid: this path takes none");
        let unknown = said::<GraphParams>("pid=1&form=dot");
        assert_eq!(unknown, "there is no parameter form: those are pid, format");
        assert_eq!(said::<GraphParams>(""), "the parameter pid is missing");
        assert_eq!(said::<GraphParams>("pid=1&pid=2"), "the parameter pid stands there twice");
        assert_eq!(said::<GraphParams>("pid=1&format=svg"), "format is \"svg\": give dot, mermaid, json");
        assert_eq!(said::<GraphParams>("pid=x"), "pid is no whole number from 0 on");
        assert_eq!(said::<GraphParams>("pid=-1"), "pid is no whole number from 0 on");
        assert_eq!(said::<GraphParams>("pid=99999999999999999999"), "pid is too large a number");
        assert_eq!(said::<GraphParams>("pid=0"), "pid: 0 is no PID: they are 1 to 4194304");
        assert_eq!(said::<GoroutineParams>("pid=1&group=yes"), "group is neither true nor false");
        assert!(
            said::<LeakParams>("verdict=sure").contains("verdict"),
            "{}",
            said::<LeakParams>("verdict=sure")
        );
    }
}

//! In which form answers go out: negotiation, CSV, NDJSON and GeoJSON as a stream, conditional requests.
//!
//! A stream that fails after it has begun breaks the connection: a truncated answer must never be taken for a whole one.

use std::convert::Infallible;
use std::io;
use std::num::NonZero;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use serde::Serialize;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use super::problem::{Kind, Problem};
use crate::model::{Position, Timestamp};

/// A form of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON document.
    Json,
    /// One JSON object a line.
    NdJson,
    /// RFC 4180, with a line of names.
    Csv,
    /// A feature collection, RFC 7946.
    GeoJson,
}

/// What answers may be asked for in.
pub(crate) trait Offered: Copy + 'static {
    /// Where nothing that is offered was asked for.
    const DEFAULT: Self;

    /// The word for `?format=`.
    fn word(self) -> &'static str;

    /// What `Accept` may ask for.
    fn media_types(self) -> &'static [&'static str];
}

impl Offered for Format {
    const DEFAULT: Self = Self::Json;

    fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::NdJson => "ndjson",
            Self::Csv => "csv",
            Self::GeoJson => "geojson",
        }
    }

    fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::NdJson => &["application/x-ndjson", "application/ndjson", "application/jsonl"],
            Self::Csv => &["text/csv"],
            Self::GeoJson => &["application/geo+json", "application/vnd.geo+json"],
        }
    }
}

impl Format {
    /// What `Content-Type` says.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::GeoJson => "application/geo+json",
        }
    }
}

/// The offered format that was asked for: by its word, else by `Accept` (RFC 9110, 12.5.1), else the first.
pub(super) fn negotiate<F: Offered>(word: Option<&str>, accept: &[HeaderValue], offered: &[F]) -> Result<F, Problem> {
    let refuse = || {
        let words: Vec<String> = offered
            .iter()
            .map(|format| format!("{} ({})", format.word(), format.media_types().first().copied().unwrap_or_default()))
            .collect();
        Problem::new(Kind::NotAcceptable, format!("there are {}", words.join(", ")))
    };
    if let Some(word) = word {
        return offered.iter().copied().find(|format| format.word() == word).ok_or_else(refuse);
    }
    let ranges: Vec<(&str, f32)> =
        accept.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).filter_map(range).collect();
    if ranges.is_empty() {
        return offered.first().copied().ok_or_else(refuse);
    }
    let mut best: Option<(F, f32)> = None;
    for format in offered {
        let quality = format.media_types().iter().map(|media| quality(&ranges, media)).fold(0.0, f32::max);
        if quality > best.map_or(0.0, |(_format, quality)| quality) {
            best = Some((*format, quality));
        }
    }
    best.map(|(format, _quality)| format).ok_or_else(refuse)
}

/// A media range and its quality.
fn range(text: &str) -> Option<(&str, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?;
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")));
    Some((media, quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0))))
}

/// What the most specific of the ranges says of a media type.
fn quality(ranges: &[(&str, f32)], media: &str) -> f32 {
    let of = |wanted: &str| ranges.iter().find(|(range, _quality)| range.eq_ignore_ascii_case(wanted)).map(|(_range, quality)| *quality);
    let group = media.split_once('/').map(|(group, _rest)| format!("{group}/*"));
    of(media).or_else(|| group.and_then(|group| of(&group))).or_else(|| of("*/*")).unwrap_or(0.0)
}

/// One row of an answer.
pub(crate) trait Row: Serialize {
    /// The names of the CSV columns.
    const COLUMNS: &'static [&'static str];

    /// Writes the CSV fields, as many as there are names.
    fn cells(&self, line: &mut Line<'_>);

    /// The position, for GeoJSON.
    fn position(&self) -> Option<Position> {
        None
    }
}

/// A line of CSV (RFC 4180) in the making. Answers have millions of fields: of the CPU time of one, the `csv` crate's writer and the
/// standard library's numbers took more than half.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Line<'a> {
    fn begin(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, is_first: true }
    }

    fn end(self) {
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A field that needs no quotes.
    fn plain(&mut self, field: &str) -> &mut Self {
        if !std::mem::replace(&mut self.is_first, false) {
            self.bytes.push(b',');
        }
        self.bytes.extend_from_slice(field.as_bytes());
        self
    }

    fn field(&mut self, field: &str) -> &mut Self {
        if field.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
            self.plain(&format!("\"{}\"", field.replace('"', "\"\"")))
        } else {
            self.plain(field)
        }
    }

    /// A text. One that a spreadsheet would take for a formula gets an apostrophe in front, which [`unguarded`] takes away.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        if is_formula(text) { self.field(&format!("'{text}")) } else { self.field(text) }
    }

    /// A text, or nothing.
    pub(crate) fn text_or_empty(&mut self, text: Option<&str>) -> &mut Self {
        self.text(text.unwrap_or_default())
    }

    /// A number in the shortest form that reads back equal, or nothing.
    pub(crate) fn number(&mut self, number: impl Into<Option<f64>>) -> &mut Self {
        let Some(number) = number.into() else { return self.plain("") };
        let mut buffer = zmij::Buffer::new();
        let digits = buffer.format(number);
        match digits.strip_suffix(".0") {
            Some(whole) => self.plain(whole),
            None if digits.contains('e') => self.plain(&number.to_string()),
            None => self.plain(digits),
        }
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, number: impl Into<i128>) -> &mut Self {
        self.plain(itoa::Buffer::new().format(number.into()))
    }

    /// A time, RFC 3339 in UTC.
    pub(crate) fn time(&mut self, time: Timestamp) -> &mut Self {
        self.plain(&time.to_string())
    }

    /// A time, or nothing.
    pub(crate) fn time_or_empty(&mut self, time: Option<Timestamp>) -> &mut Self {
        match time {
            Some(time) => self.time(time),
            None => self.plain(""),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, flag: bool) -> &mut Self {
        self.plain(if flag { "true" } else { "false" })
    }
}

/// Whether a spreadsheet would take a text for a formula; apostrophes in front of it count as part of it.
pub(super) fn is_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// The text that [`Line::text`] wrote.
pub(super) fn unguarded(field: &str) -> String {
    field.strip_prefix('\'').filter(|text| is_formula(text)).unwrap_or(field).to_owned()
}

/// Rows as CSV.
fn csv_bytes<R: Row>(rows: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        let mut line = Line::begin(&mut bytes);
        row.cells(&mut line);
        line.end();
    }
    bytes
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always serialises")
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Page<T> {
    /// The page's rows.
    pub(crate) items: Vec<T>,
    /// Give it as `cursor` to get the next page; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` of the items, of which one more was fetched; `cursor` tells where the last one stands.
    pub(crate) fn of(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let is_last = items.len() <= limit;
        items.truncate(limit);
        let next = items.last().filter(|_item| !is_last).map(cursor);
        Self { items, next }
    }
}

/// A JSON document.
pub(crate) fn json(value: &impl Serialize) -> Response {
    whole(Format::Json, json_bytes(value))
}

/// Rows in some pieces, as CSV, NDJSON or GeoJSON.
pub(crate) fn rows<R: Row>(format: Format, pieces: impl IntoIterator<Item = impl AsRef<[R]>>) -> Response {
    let mut encoder = Encoder::new(format);
    let mut bytes = encoder.begin::<R>();
    for piece in pieces {
        bytes.extend(encoder.rows(piece.as_ref()));
    }
    bytes.extend(encoder.end());
    whole(format, bytes)
}

/// Rows of many pieces, as CSV or NDJSON: made beside each other on threads for blocking work, sent in their order as they come, never
/// more of them than there are processors waiting. `make` owns what must be kept until the end.
pub(crate) fn made<P, F>(format: Format, names: Vec<u8>, pieces: Vec<P>, make: F) -> Response
where
    P: Send + 'static,
    F: Fn(P) -> Vec<u8> + Send + Sync + 'static,
{
    let make = Arc::new(make);
    let beside = std::thread::available_parallelism().map_or(1, NonZero::get);
    let pieces = stream::iter(pieces).map(move |piece| {
        let make = Arc::clone(&make);
        tokio::task::spawn_blocking(move || Bytes::from(make(piece)))
    });
    let pieces = pieces.buffered(beside).map(|made| made.map_err(io::Error::other));
    let begin = stream::iter([Ok(Bytes::from(names))]);
    with_type(format.content_type(), Body::from_stream(begin.chain(pieces)))
}

fn whole(format: Format, bytes: Vec<u8>) -> Response {
    with_type(format.content_type(), Body::from(bytes))
}

pub(super) fn with_type(content_type: &'static str, body: Body) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::VARY, HeaderValue::from_static("accept"))];
    (headers, body).into_response()
}

/// Rows as they come, as CSV, NDJSON or GeoJSON ([`Format::Json`] becomes an array). The answer begins once the first
/// rows are there or there are none, so that what fails before has its own status; what fails later breaks it off. What
/// the stream owns, a [`QuestionPermit`](super::question::QuestionPermit) for instance, is kept until the end.
pub(crate) async fn streamed<R, E>(format: Format, mut rows: BoxStream<'static, Result<Vec<R>, E>>) -> Result<Response, Problem>
where
    R: Row + Send + 'static,
    E: Send + 'static,
    Problem: From<E>,
{
    let first = rows.next().await.transpose()?;
    let mut encoder = Encoder::new(format);
    let mut start = encoder.begin::<R>();
    if let Some(first) = &first {
        start.extend(encoder.rows(first));
    }
    let start = stream::iter([Ok::<_, io::Error>(Bytes::from(start))]);
    let body = start.chain(rest(encoder, rows));
    Ok(with_type(format.content_type(), Body::from_stream(body)))
}

fn rest<R, E>(
    encoder: Encoder,
    rows: BoxStream<'static, Result<Vec<R>, E>>,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static
where
    R: Row + Send + 'static,
    E: Send + 'static,
    Problem: From<E>,
{
    stream::unfold(Some((encoder, rows)), |state| async move {
        let (mut encoder, mut rows) = state?;
        match rows.next().await {
            Some(Ok(chunk)) => Some((Ok(Bytes::from(encoder.rows(&chunk))), Some((encoder, rows)))),
            Some(Err(error)) => {
                // Logged where it became a problem; the caller only sees that the answer is not whole.
                let kind = Problem::from(error).kind();
                Some((Err(io::Error::other(format!("the answer broke off: {}", kind.word()))), None))
            }
            None => Some((Ok(Bytes::from(encoder.end())), None)),
        }
    })
}

/// Rows in a format, piece by piece.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    is_first: bool,
}

impl Encoder {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, is_first: true }
    }

    /// What stands before all rows.
    pub(crate) fn begin<R: Row>(&self) -> Vec<u8> {
        match self.format {
            Format::Json => b"[".to_vec(),
            Format::NdJson => Vec::new(),
            Format::Csv => format!("{}\r\n", R::COLUMNS.join(",")).into_bytes(),
            Format::GeoJson => br#"{"type":"FeatureCollection","features":["#.to_vec(),
        }
    }

    /// Some rows.
    pub(crate) fn rows<R: Row>(&mut self, rows: &[R]) -> Vec<u8> {
        if self.format == Format::Csv {
            return csv_bytes(rows);
        }
        let mut bytes = Vec::new();
        for row in rows {
            if self.format != Format::NdJson && !std::mem::replace(&mut self.is_first, false) {
                bytes.push(b',');
            }
            match self.format {
                Format::GeoJson => serde_json::to_writer(&mut bytes, &feature(row.position(), row)),
                Format::Json | Format::NdJson | Format::Csv => serde_json::to_writer(&mut bytes, row),
            }
            .expect("plain data always serialises");
            if self.format == Format::NdJson {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn end(&self) -> &'static [u8] {
        match self.format {
            Format::Json => b"]",
            Format::NdJson | Format::Csv => b"",
            Format::GeoJson => b"]}",
        }
    }
}

/// A GeoJSON feature (RFC 7946, 3.2).
pub(crate) fn feature(position: Option<Position>, properties: &impl Serialize) -> serde_json::Value {
    let geometry = position.map(|position| json!({ "type": "Point", "coordinates": [position.longitude(), position.latitude()] }));
    json!({ "type": "Feature", "geometry": geometry, "properties": properties })
}

/// A document that changes rarely: with an `ETag`, and `304 Not Modified` for whoever has it already (RFC 9110, 13.1.2).
pub(crate) fn document(request: &HeaderMap, content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let bytes = bytes.into();
    let tag = etag(&bytes);
    let is_known = names_tag(request, header::IF_NONE_MATCH, &tag);
    let mut response = with_type(content_type, if is_known { Body::empty() } else { Body::from(bytes) });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    let tag = HeaderValue::from_str(&tag).expect("hexadecimal digits");
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The tag of a document. Weak, since the same document also goes out compressed.
pub(super) fn etag(bytes: &[u8]) -> String {
    format!("W/\"{:032x}\"", xxh3_128(bytes))
}

/// Whether a header, `If-Match` or `If-None-Match`, names a tag or any.
pub(super) fn names_tag(headers: &HeaderMap, name: HeaderName, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let named = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    named.map(opaque).any(|named| named == "*" || named == opaque(tag))
}

impl From<Infallible> for Problem {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 4] = [Format::Json, Format::NdJson, Format::Csv, Format::GeoJson];

    #[derive(Serialize)]
    struct Pair {
        name: &'static str,
        value: f64,
    }

    impl Row for Pair {
        const COLUMNS: &'static [&'static str] = &["name", "value"];

        fn cells(&self, line: &mut Line<'_>) {
            line.text(self.name).number(self.value);
        }

        fn position(&self) -> Option<Position> {
            Position::new(13.0, self.value).ok()
        }
    }

    async fn body(response: Response) -> String {
        String::from_utf8(axum::body::to_bytes(response.into_body(), 10_000).await.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_format_asked_for_is_found() {
        let accepted = |accept: &'static str| negotiate(None, &[HeaderValue::from_static(accept)], &ALL).ok();
        for (accept, format) in [
            ("*/*", Some(Format::Json)),
            ("text/csv", Some(Format::Csv)),
            ("text/html, application/x-ndjson;q=0.5, */*;q=0.1", Some(Format::NdJson)),
            ("application/json;q=0, text/*", Some(Format::Csv)),
            ("application/*;q=0.2, application/geo+json", Some(Format::GeoJson)),
            ("image/png", None),
            ("", Some(Format::Json)),
        ] {
            assert_eq!(accepted(accept), format, "{accept}");
        }
        assert_eq!(negotiate(Some("csv"), &[HeaderValue::from_static("image/png")], &ALL).ok(), Some(Format::Csv));
        assert_eq!(negotiate(Some("xml"), &[], &ALL).unwrap_err().kind(), Kind::NotAcceptable);
    }

    #[tokio::test]
    async fn rows_are_the_same_streamed_or_whole() {
        let pairs = || vec![Pair { name: "a", value: 1.5 }, Pair { name: "=b", value: -2.0 }];
        for (format, expected) in [
            (Format::Json, r#"[{"name":"a","value":1.5},{"name":"=b","value":-2.0}]"#),
            (Format::NdJson, "{\"name\":\"a\",\"value\":1.5}\n{\"name\":\"=b\",\"value\":-2.0}\n"),
            (Format::Csv, "name,value\r\na,1.5\r\n'=b,-2\r\n"),
            (
                Format::GeoJson,
                r#"{"type":"FeatureCollection","features":[{"geometry":{"coordinates":[13.0,1.5],"type":"Point"},"properties":{"name":"a","value":1.5},"type":"Feature"},{"geometry":{"coordinates":[13.0,-2.0],"type":"Point"},"properties":{"name":"=b","value":-2.0},"type":"Feature"}]}"#,
            ),
        ] {
            assert_eq!(body(rows(format, [pairs()])).await, expected);
            let chunks = pairs().into_iter().map(|pair| Ok::<_, Problem>(vec![pair])).collect::<Vec<_>>();
            let response = streamed(format, stream::iter(chunks).boxed()).await.unwrap();
            assert_eq!(body(response).await, expected);
        }
    }

    #[test]
    fn what_is_guarded_against_spreadsheets_is_read_back() {
        for text in ["=1", "'=1", "''@x", "'Ndr", "-", "a-b", "'", ""] {
            let mut field = Vec::new();
            Line::begin(&mut field).text(text);
            let field = std::str::from_utf8(&field).unwrap();
            assert!(!field.starts_with(['=', '@', '-']), "{field}");
            assert_eq!(unguarded(field.trim_matches('"')), text);
        }
    }

    #[test]
    fn fields_are_read_back_by_any_reader() {
        let mut bytes = Vec::new();
        let numbers = [0.0, -0.0, 119.0, 0.1, -2.5, 1e-7, 1.5e300, 123_456_789_012_345_680.0, f64::MIN_POSITIVE, 1.0 / 3.0];
        let texts = ["", "a,b", "say \"x\"", "two\r\nlines", "'", "è"];
        let mut line = Line::begin(&mut bytes);
        for number in numbers {
            line.number(number);
        }
        line.number(None).integer(u64::MAX).flag(true);
        for text in texts {
            line.text(text);
        }
        line.end();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes.as_slice());
        let record = reader.records().next().unwrap().unwrap();
        let expected = numbers.iter().map(f64::to_string).chain(["", "18446744073709551615", "true"].map(str::to_owned));
        let expected: Vec<String> = expected.chain(texts.map(str::to_owned)).collect();
        assert_eq!(record.iter().collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_stream_that_fails_is_never_whole() {
        let failed = || Err(Problem::new(Kind::Timeout, ""));
        let at_once = streamed::<Pair, _>(Format::Csv, stream::iter([failed()]).boxed()).await;
        assert_eq!(at_once.unwrap_err().kind(), Kind::Timeout);
        let late = stream::iter([Ok(vec![Pair { name: "a", value: 1.0 }]), failed()]).boxed();
        let response = streamed(Format::Csv, late).await.unwrap();
        assert!(axum::body::to_bytes(response.into_body(), 10_000).await.is_err());
    }

    #[tokio::test]
    async fn a_known_document_is_not_sent_again() {
        let mut request = HeaderMap::new();
        let first = document(&request, "text/plain", "hello");
        request.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(document(&request, "text/plain", "hello").status(), StatusCode::NOT_MODIFIED);
        let changed = document(&request, "text/plain", "changed");
        assert_eq!((changed.status(), body(changed).await.as_str()), (StatusCode::OK, "changed"));
    }
}

//! As much of HTTP as monitoring needs: GET and HEAD requests for three pages, one request per connection.

use std::fmt::Write;

/// The most bytes of a request's head.
pub const HEAD_MAX: usize = 8 * 1024;
/// The most header fields of a request.
const FIELDS_MAX: usize = 64;
/// The content type of Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A page that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// All metrics.
    Metrics,
    /// Whether both threads of the process are at work.
    Health,
    /// Whether the replica serves.
    Readiness,
}

impl Page {
    fn at(path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(Page::Metrics),
            "/healthz" => Some(Page::Health),
            "/readyz" => Some(Page::Readiness),
            _ => None,
        }
    }
}

/// A valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    pub page: Page,
    /// Whether the answer is sent without its body (HEAD).
    pub is_head: bool,
}

/// The status line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpStatus {
    /// Here it is.
    Ok,
    /// This is no HTTP.
    BadRequest,
    /// There is no such page.
    NotFound,
    /// It can only be read.
    MethodNotAllowed,
    /// The request is too long.
    TooLarge,
    /// It cannot be had now, or the answer is no.
    Unavailable,
}

impl HttpStatus {
    fn line(self) -> &'static str {
        match self {
            HttpStatus::Ok => "200 OK",
            HttpStatus::BadRequest => "400 Bad Request",
            HttpStatus::NotFound => "404 Not Found",
            HttpStatus::MethodNotAllowed => "405 Method Not Allowed",
            HttpStatus::TooLarge => "431 Request Header Fields Too Large",
            HttpStatus::Unavailable => "503 Service Unavailable",
        }
    }
}

/// What the bytes that have come so far ask for; none when more has to come.
///
/// # Errors
/// This cannot be answered: with which status, and why.
pub fn parse(bytes: &[u8]) -> Result<Option<HttpRequest>, (HttpStatus, &'static str)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err((HttpStatus::TooLarge, "the request is too long\n"));
        }
        Err(_) => return Err((HttpStatus::BadRequest, "this is not HTTP/1.0 or HTTP/1.1\n")),
    }
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let Some(page) = Page::at(path) else {
        return Err((HttpStatus::NotFound, "there are /metrics, /healthz and /readyz\n"));
    };
    match request.method {
        Some("GET") => Ok(Some(HttpRequest { page, is_head: false })),
        Some("HEAD") => Ok(Some(HttpRequest { page, is_head: true })),
        _ => Err((HttpStatus::MethodNotAllowed, "this can only be read, by GET or HEAD\n")),
    }
}

/// The answer to a request.
pub fn answer(request: HttpRequest, status: HttpStatus, body: &str) -> Vec<u8> {
    let kind = if request.page == Page::Metrics && status == HttpStatus::Ok { METRICS } else { TEXT };
    let mut text = head(status, kind, body.len());
    if !request.is_head {
        text.push_str(body);
    }
    text.into_bytes()
}

/// The answer to what cannot be answered.
pub fn refusal(status: HttpStatus, why: &str) -> Vec<u8> {
    (head(status, TEXT, why.len()) + why).into_bytes()
}

/// An answer up to its body.
fn head(status: HttpStatus, kind: &str, length: usize) -> String {
    let mut text = format!("HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n", status.line());
    if status == HttpStatus::MethodNotAllowed {
        text.push_str("Allow: GET, HEAD\r\n");
    }
    write!(text, "Cache-Control: no-store\r\nConnection: close\r\n\r\n").expect("writing to a string does not fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(page: Page, is_head: bool) -> Result<Option<HttpRequest>, (HttpStatus, &'static str)> {
        Ok(Some(HttpRequest { page, is_head }))
    }

    #[test]
    fn pages_are_asked_for() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), request(Page::Metrics, false));
        assert_eq!(parse(b"GET /healthz HTTP/1.0\r\n\r\n"), request(Page::Health, false));
        assert_eq!(parse(b"HEAD /readyz?verbose=1 HTTP/1.1\r\n\r\nmore"), request(Page::Readiness, true));
        let whole = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "after {length} bytes");
        }
    }

    #[test]
    fn invalid_requests_are_refused() {
        let status = |bytes: &[u8]| parse(bytes).map_err(|(status, _)| status);
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), Err(HttpStatus::NotFound));
        assert_eq!(status(b"GET /metrics/ HTTP/1.1\r\n\r\n"), Err(HttpStatus::NotFound));
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), Err(HttpStatus::MethodNotAllowed));
        assert_eq!(status(b"GET /metrics HTTP/2.0\r\n\r\n"), Err(HttpStatus::BadRequest));
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01"), Err(HttpStatus::BadRequest));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(status(many.as_bytes()), Err(HttpStatus::TooLarge));
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_MAX));
        assert_eq!(status(&long.as_bytes()[..HEAD_MAX]), Err(HttpStatus::TooLarge));
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let request = HttpRequest { page: Page::Metrics, is_head: false };
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let whole = text(answer(request, HttpStatus::Ok, "some\n"));
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.ends_with("\r\n\r\nsome\n"), "{whole}");
        assert!(whole.contains("Content-Length: 5\r\n") && whole.contains("version=0.0.4"), "{whole}");
        let head = text(answer(HttpRequest { is_head: true, ..request }, HttpStatus::Ok, "some\n"));
        assert_eq!(head, whole.trim_end_matches("some\n"));
        assert!(text(refusal(HttpStatus::MethodNotAllowed, "no\n")).contains("Allow: GET, HEAD\r\n"));
    }
}

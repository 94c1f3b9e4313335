//! HTTP probes and hooks: HTTP/1.1, with TLS that verifies nothing, over one connection per request.
//!
//! Redirects are followed as long as they stay on the host that was asked (Go's `http.Client` with
//! kubelet's `RedirectChecker`); one that leads elsewhere counts as an answer.

use std::io;
use std::time::Duration;

use logic::pod::spec::HttpGet;
use model::limits::{PROBE_ANSWER_BYTES_MAX, PROBE_REDIRECTS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connect::Endpoint;
use crate::io::tls::unverified;

/// One place that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    secure: bool,
    at: Endpoint,
    path: String,
}

/// What of an answer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    location: Option<String>,
}

/// Asks, follows redirects, and judges the answer.
pub(super) async fn probe(
    request: &HttpGet,
    at: &Endpoint,
    timeout: Duration,
) -> Result<(), String> {
    let url = Url::of(request, at);
    let get = url.get_text();
    match tokio::time::timeout(timeout, follow(request, url)).await {
        Err(_) => Err(late(&get)),
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(text)) => Err(text),
    }
}

/// Asks once; any answer will do.
pub(super) async fn call(
    request: &HttpGet,
    at: &Endpoint,
    timeout: Duration,
) -> Result<(), String> {
    let url = Url::of(request, at);
    let get = url.get_text();
    match tokio::time::timeout(timeout, ask(request, &url)).await {
        Err(_) => Err(late(&get)),
        Ok(answer) => {
            answer.map(drop).map_err(|error| format!("{get}: {}", url.at.dial_text(&error)))
        }
    }
}

fn late(get: &str) -> String {
    format!("{get}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
}

async fn follow(request: &HttpGet, mut url: Url) -> Result<u16, String> {
    let first = url.get_text();
    for _ in 0..=PROBE_REDIRECTS_MAX {
        let answer = ask(request, &url).await;
        let answer =
            answer.map_err(|error| format!("{}: {}", url.get_text(), url.at.dial_text(&error)))?;
        let redirects = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
        match answer.location.filter(|_| redirects).and_then(|to| url.redirected(&to)) {
            Some(next) => url = next,
            None => return Ok(answer.status),
        }
    }
    Err(format!("{first}: stopped after {PROBE_REDIRECTS_MAX} redirects"))
}

async fn ask(request: &HttpGet, url: &Url) -> io::Result<Answer> {
    let head = request_head(request, url);
    let stream = url.at.connect().await?;
    match url.secure {
        true => exchange(unverified(&url.at.host, stream).await?, &head).await,
        false => exchange(stream, &head).await,
    }
}

impl Url {
    fn of(request: &HttpGet, at: &Endpoint) -> Self {
        let secure = request.scheme.eq_ignore_ascii_case("https");
        let slash = if request.path.starts_with('/') { "" } else { "/" };
        Self { secure, at: at.clone(), path: format!("{slash}{}", request.path) }
    }

    fn get_text(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("Get \"{scheme}://{}{}\"", self.at, self.path)
    }

    /// Where a redirect leads; `None` for another host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        let (secure, rest) = match location.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ if location.starts_with("//") => (self.secure, &location[2..]),
            _ => return Some(Self { path: self.resolved(location), ..self.clone() }),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => (&rest[..at], rest[at..].to_owned()),
            Some(at) => (&rest[..at], format!("/{}", &rest[at..])),
            None => (rest, "/".to_owned()),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if secure { 443 } else { 80 }),
        };
        let same = host.trim_matches(['[', ']']).eq_ignore_ascii_case(&self.at.host);
        same.then(|| Self { secure, at: Endpoint { port, ..self.at.clone() }, path })
    }

    fn resolved(&self, location: &str) -> String {
        let own = self.path.split('?').next().unwrap_or_default();
        match location.chars().next() {
            Some('/') => location.to_owned(),
            Some('?') => format!("{own}{location}"),
            Some(_) => format!("{}/{location}", own.rsplit_once('/').map_or("", |(dir, _)| dir)),
            None => self.path.clone(),
        }
    }
}

fn request_head(request: &HttpGet, url: &Url) -> String {
    let clean = |text: &str| text.replace(['\r', '\n'], " ");
    let mut head = format!("GET {} HTTP/1.1\r\n", clean(&url.path));
    let given = |name: &str| {
        request.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name))
    };
    let host = url.at.to_string();
    for (name, value) in [("Host", host.as_str()), ("User-Agent", USER_AGENT), ("Accept", "*/*")] {
        if !given(name) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in &request.http_headers {
        head.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
    }
    head + "Connection: close\r\n\r\n"
}

/// Whom servers see.
pub(super) const USER_AGENT: &str = "kube-probe/1.36";

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &str,
) -> io::Result<Answer> {
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let complete = |answer: &[u8]| answer.windows(4).any(|four| four == b"\r\n\r\n");
    while answer.len() < PROBE_ANSWER_BYTES_MAX && !complete(&answer) {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            // A server that cuts the connection off may have answered before.
            Err(_) if answer_of(&answer).is_some() => break,
            Err(error) => return Err(error),
        }
    }
    answer_of(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed HTTP response"))
}

fn answer_of(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let mut words = lines.next()?.split_ascii_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    let status = words.next()?.parse().ok()?;
    let mut headers = lines.take_while(|line| !line.is_empty());
    let location = headers.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    Some(Answer { status, location })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    fn url(path: &str) -> Url {
        let at = Endpoint { netns: None, host: "10.42.0.5".to_owned(), port: 8_080 };
        Url { secure: false, at, path: path.to_owned() }
    }

    #[test]
    fn answers_are_read() {
        let status = |bytes: &[u8]| answer_of(bytes).map(|answer| answer.status);
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 abc\r\n"] {
            assert_eq!(answer_of(bad), None);
        }
        let moved = answer_of(b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\nLocation: /body");
        assert_eq!(moved.and_then(|answer| answer.location).as_deref(), Some("/x"));
    }

    #[test]
    fn headers_cannot_be_smuggled() {
        let header =
            logic::pod::spec::HttpHeader { name: "X".to_owned(), value: "1\r\nEvil: 2".to_owned() };
        let request = HttpGet { http_headers: vec![header], ..HttpGet::default() };
        let mut url = url("/");
        url.at = Endpoint { netns: None, host: "::1".to_owned(), port: 80 };
        let head = request_head(&request, &url);
        assert!(!head.contains("\r\nEvil"));
        assert!(head.contains("\r\nHost: [::1]:80\r\n"), "{head}");
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let check = |location: &str, expected: Option<&str>| {
            let next = url("/a/b?c").redirected(location).map(|url| url.get_text());
            let expected = expected.map(|text| format!("Get \"{text}\""));
            assert_eq!(next, expected, "{location}");
        };
        check("/x", Some("http://10.42.0.5:8080/x"));
        check("x?y#z", Some("http://10.42.0.5:8080/a/x?y"));
        check("?y", Some("http://10.42.0.5:8080/a/b?y"));
        check("//10.42.0.5/x", Some("http://10.42.0.5:80/x"));
        check("https://10.42.0.5", Some("https://10.42.0.5:443/"));
        check("http://10.42.0.5:81?q", Some("http://10.42.0.5:81/?q"));
        check("http://example.com/", None);
        check("https://10.42.0.50:8080/", None);
    }

    /// A server that answers each connection with the next of these texts, and says what it was asked.
    fn server(answers: Vec<String>) -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let serve = move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().expect("a client");
                let mut lines = BufReader::new(&stream).lines();
                let head: Vec<String> = lines
                    .by_ref()
                    .map(|line| line.expect("text"))
                    .take_while(|line| !line.is_empty())
                    .collect();
                (&stream).write_all(answer.as_bytes()).expect("sent");
                asked.push(head.join("\n"));
            }
            asked
        };
        (port, std::thread::spawn(serve))
    }

    #[tokio::test]
    async fn redirects_are_followed_and_headers_sent() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /second\r\nContent-Length: 0\r\n\r\n";
        let answers = vec![moved.to_owned(), "HTTP/1.1 500 No\r\n\r\n".to_owned()];
        let (port, asked) = server(answers);
        let at = Endpoint { netns: None, host: "127.0.0.1".to_owned(), port };
        let header = |name: &str, value: &str| logic::pod::spec::HttpHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let request = HttpGet {
            path: "first".to_owned(),
            http_headers: vec![header("Host", "shop.example"), header("X-Mark", "7")],
            ..HttpGet::default()
        };
        let answer = probe(&request, &at, Duration::from_secs(5)).await;
        assert_eq!(answer, Err("HTTP probe failed with statuscode: 500".to_owned()));
        let asked = asked.join().expect("served");
        assert!(asked[0].starts_with("GET /first HTTP/1.1\n"), "{asked:?}");
        assert!(asked[1].starts_with("GET /second HTTP/1.1\n"), "{asked:?}");
        assert!(asked.iter().all(|head| head.contains("\nHost: shop.example\nX-Mark: 7\n")));
        assert!(asked[0].contains("User-Agent: kube-probe/1.36"));
    }

    #[tokio::test]
    async fn a_hook_takes_any_answer_and_no_silence() {
        let (port, _asked) = server(vec!["HTTP/1.1 500 No\r\n\r\n".to_owned()]);
        let mut at = Endpoint { netns: None, host: "127.0.0.1".to_owned(), port };
        let request = HttpGet::default();
        assert_eq!(call(&request, &at, Duration::from_secs(5)).await, Ok(()));
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        at.port = silent.local_addr().expect("bound").port();
        let late = call(&request, &at, Duration::from_millis(50)).await.expect_err("no answer");
        assert!(late.contains("context deadline exceeded"), "{late}");
    }
}

//! Who may come in: checked from a request's head alone, before any of its body is read.
//!
//! A web page can make a browser send requests to a daemon on the same machine. What it cannot choose is the `Host` that the
//! browser names (so that names rebound to 127.0.0.1 are refused), whether the browser says that the request crosses sites,
//! and, without asking first, a JSON content type.

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};

use super::auth::{Refusal, Scope};
use super::body;
use super::limits::ServerConfig;
use super::router::Route;
use crate::error::{Error, Result};
use crate::model::ids::Project;

/// Refuses requests that came by way of a web page, or that name a host which this daemon is not.
pub fn check_source(head: &Parts, config: &ServerConfig) -> Result<()> {
    let host = host(head)?;
    let refuse = |what: String| {
        Error::invalid(what)
            .with_code("forbidden")
            .with_hint("browsers may not use this daemon across sites; server.allowed_hosts names its hosts")
    };
    let name = without_port(host);
    if !config.allowed_hosts.is_empty()
        && !config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    {
        return Err(refuse(format!(
            "host {name:?} is not served here, expected one of {}",
            config.allowed_hosts.join(", ")
        )));
    }
    if let Some(site) = only(&head.headers, &HeaderName::from_static("sec-fetch-site"))?
        && !matches!(site, "same-origin" | "none")
    {
        return Err(refuse(format!("request comes from another site (Sec-Fetch-Site: {site:?})")));
    }
    if let Some(origin) = only(&head.headers, &ORIGIN)? {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return Err(refuse(format!("request comes from another site (Origin: {origin:?})")));
        }
    }
    Ok(())
}

/// Refuses bodies that say they are something else than what is expected here. No page could send one of the expected types
/// without asking first.
pub fn check_content_type(head: &Parts, expected: &str) -> Result<()> {
    if !matches!(head.method, Method::POST | Method::PUT | Method::PATCH) || !body::is_announced(&head.headers) {
        return Ok(());
    }
    let sent = only(&head.headers, &CONTENT_TYPE)?.unwrap_or("");
    let kind = sent.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Error::invalid(format!("content-type is {sent:?}, expected {expected}"))
        .with_code("unsupported_media_type")
        .with_hint(format!("send the header `content-type: {expected}`")))
}

/// Checks the token of a request whose path was read, or not. Without a token nothing is said about paths.
pub fn check_token(head: &Parts, route: &Result<Route>, config: &ServerConfig) -> Result<()> {
    let Some(tokens) = &config.tokens else { return Ok(()) };
    let header = only(&head.headers, &AUTHORIZATION)?;
    let checked = match route {
        // Service managers and load balancers ask without a token; the answers tell nothing.
        Ok(Route::Live | Route::Ready) => Ok(()),
        Ok(route) => tokens.check(header, route.scope(), route.project()),
        Err(_) => tokens.find(header).map(|_| ()),
    };
    checked.map_err(|refusal| refused(refusal, route.as_ref().ok()))
}

/// Checks that a request's token is good for another project, too, which its body or parameters name.
pub fn check_scope(head: &Parts, config: &ServerConfig, needs: Scope, project: &Project) -> Result<()> {
    let Some(tokens) = &config.tokens else { return Ok(()) };
    tokens
        .check(only(&head.headers, &AUTHORIZATION)?, needs, Some(project))
        .map_err(|_| Error::invalid(format!("the token is not good for project {project}")).with_code("forbidden"))
}

fn refused(refusal: Refusal, route: Option<&Route>) -> Error {
    match refusal {
        Refusal::Unauthenticated => {
            Error::invalid("no token that is known here, expected `Authorization: Bearer TOKEN`")
                .with_code("unauthenticated")
        }
        Refusal::Forbidden => {
            let needs = match route.map(Route::scope) {
                Some(Scope::Write) => "write",
                Some(Scope::Admin) => "admin",
                _ => "read",
            };
            let place = match route.and_then(Route::project) {
                Some(project) => format!(" in project {project}"),
                None => String::new(),
            };
            Error::invalid(format!("the token does not allow this, expected one that may {needs}{place}"))
                .with_code("forbidden")
        }
    }
}

/// A header's text; an error when it is there twice or is not text.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid(format!("header {name} is not text"))),
        },
        (Some(_), Some(_)) => Err(Error::invalid(format!("header {name} is there more than once"))),
    }
}

/// The host a request names, with its port.
fn host(head: &Parts) -> Result<&str> {
    if let Some(authority) = head.uri.authority() {
        return Ok(authority.as_str());
    }
    only(&head.headers, &HOST)?.ok_or_else(|| Error::invalid("header host is missing"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::http::request::Parts;

    use super::{Route, ServerConfig, check_content_type, check_source, check_token, without_port};
    use crate::api::auth::{Scope, Token, Tokens};
    use crate::api::error::status_of;
    use crate::api::router::route;

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/v2/namespaces/docs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn source(headers: &[(&str, &str)]) -> u16 {
        match check_source(&head("POST", headers), &ServerConfig::default()) {
            Ok(()) => 200,
            Err(error) => status_of(&error),
        }
    }

    #[test]
    fn only_this_daemons_hosts_are_served() {
        for host in ["localhost", "LOCALHOST:7345", "127.0.0.1:7345", "[::1]:7345", "[::1]"] {
            assert_eq!(source(&[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:7345", "127.0.0.1.evil.example", "localhost.", "", ":7345", "[::1"]
        {
            assert_eq!(source(&[("host", host)]), 403, "{host}");
        }
        assert_eq!(source(&[]), 400);
        assert_eq!(source(&[("host", "localhost"), ("host", "evil.example")]), 400);
    }

    #[test]
    fn requests_from_other_sites_are_refused() {
        let local = ("host", "localhost:7345");
        assert_eq!(source(&[local, ("origin", "http://localhost:7345")]), 200);
        for origin in ["http://localhost:3000", "https://evil.example", "null", "", "localhost:7345"] {
            assert_eq!(source(&[local, ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(source(&[local, ("sec-fetch-site", "none")]), 200);
        assert_eq!(source(&[local, ("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(source(&[local, ("sec-fetch-site", "same-site")]), 403);
        assert_eq!(source(&[local, ("sec-fetch-site", "cross-site")]), 403);
    }

    #[test]
    fn bodies_must_say_that_they_are_json() {
        let check = |method: &str, headers: &[(&str, &str)]| {
            check_content_type(&head(method, headers), "application/json").is_ok()
        };
        assert!(check("POST", &[("content-length", "2"), ("content-type", "application/json; charset=utf-8")]));
        assert!(!check("POST", &[("content-length", "2"), ("content-type", "text/plain")]));
        assert!(!check("PUT", &[("transfer-encoding", "chunked")]));
        assert!(check("POST", &[("content-length", "0")]));
        assert!(check("POST", &[]));
    }

    #[test]
    fn a_token_is_needed_before_anything_is_told() {
        let config = ServerConfig {
            tokens: Some(Tokens::new(vec![Token::new("reader", Scope::Read, None)])),
            ..ServerConfig::default()
        };
        let check = |path: &str, token: Option<&str>| {
            let token = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<(&str, &str)> = token.iter().map(|token| ("authorization", token.as_str())).collect();
            match check_token(&head("GET", &headers), &route("GET", path), &config) {
                Ok(()) => 200,
                Err(error) => status_of(&error),
            }
        };
        assert_eq!(check("/v1/namespaces", None), 401);
        assert_eq!(check("/nothing/here", None), 401);
        assert_eq!(check("/v1/namespaces", Some("other")), 401);
        assert_eq!(check("/v1/namespaces", Some("reader")), 200);
        assert_eq!(check("/v1/status", Some("reader")), 403);
        assert_eq!(check("/livez", None), 200);
        assert_eq!(check("/metrics", None), 401);
        assert_eq!(Route::Metrics.scope(), Scope::Read);
    }

    #[test]
    fn ports_are_not_part_of_hosts() {
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("a:1"), "a");
        assert_eq!(without_port(":1"), ":1");
    }
}

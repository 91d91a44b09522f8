//! What holds for every address: who may come in, how errors look, what headers say.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::Town;
use crate::config::TokenHash;

fn with_tokens() -> String {
    let token =
        |name: &str, role: &str| format!("[[api.tokens]]\nname = {name:?}\nrole = {role:?}\nsha256 = \"{}\"\n", TokenHash::of(name));
    [token("reader", "read"), token("operator", "operate"), token("boss", "admin")].concat()
}

#[tokio::test]
async fn without_tokens_only_this_machine_is_answered() {
    let town = Town::new("").await;
    for (host, status) in
        [("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("", 421)]
    {
        for address in ["/openapi.json", "/problems/busy"] {
            assert_eq!(town.send(Method::GET, address, &[("host", host)], "").await.status, status, "{host:?} {address}");
        }
    }
    assert_eq!(town.send(Method::GET, "/openapi.json", &[("host", "evil.example")], "").await.problem(), "misdirected");
}

#[tokio::test]
async fn with_tokens_everything_but_what_is_open_needs_one() {
    let town = Town::new(&with_tokens()).await;
    for open in ["/openapi.json", "/docs/", "/problems/busy"] {
        assert_eq!(town.send(Method::GET, open, &[("host", "conca.example")], "").await.status, 200, "{open}");
    }
    let anonymous = town.get("/v1/nothing").await;
    assert_eq!((anonymous.status, anonymous.problem().as_str()), (StatusCode::UNAUTHORIZED, "unauthenticated"));
    assert_eq!(anonymous.header("www-authenticate"), "Bearer realm=\"conca\"");
    for wrong in ["Bearer nobody", "Basic reader", "reader", "Bearer", "Bearer reader boss"] {
        let answer = town.send(Method::GET, "/v1/nothing", &[("authorization", wrong)], "").await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(answer.header("www-authenticate").contains("invalid_token"));
    }
    let known = town.send(Method::GET, "/v1/nothing", &[("authorization", "Bearer reader")], "").await;
    assert_eq!((known.status, known.problem().as_str()), (StatusCode::NOT_FOUND, "not-found"));
}

#[tokio::test]
async fn errors_are_problems() {
    let town = Town::new("").await;
    assert_eq!(town.get("/nowhere").await.problem(), "not-found");
    assert_eq!(town.get("/problems/nothing").await.problem(), "not-found");
    let method = town.post(Method::DELETE, "/openapi.json", &json!({})).await;
    assert_eq!((method.problem().as_str(), method.header("allow")), ("method-not-allowed", "GET,HEAD"));
    let form = town.send(Method::POST, "/openapi.json", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(form.problem(), "unsupported-media-type");
    assert_eq!(town.get(&format!("/openapi.json?{}", "x".repeat(9_000))).await.problem(), "address-too-long");
}

#[tokio::test]
async fn answers_are_safe_to_show() {
    let town = Town::new("").await;
    for address in ["/openapi.json", "/nowhere", "/docs/"] {
        let answer = town.get(address).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("access-control-allow-origin"), "");
        assert!(["no-store", "no-cache"].contains(&answer.header("cache-control")));
    }
}

#[tokio::test]
async fn documents_are_sent_once_and_compressed() {
    let town = Town::new("").await;
    let first = town.get("/openapi.json").await;
    assert_eq!(first.json()["openapi"], "3.1.0");
    let again = town.send(Method::GET, "/openapi.json", &[("if-none-match", first.header("etag"))], "").await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let small = town.send(Method::GET, "/openapi.json", &[("accept-encoding", "gzip")], "").await;
    assert_eq!(small.header("content-encoding"), "gzip");
    assert!(small.header("vary").contains("accept-encoding"));
}

#[tokio::test]
async fn the_description_is_shown_without_the_internet() {
    let town = Town::new("").await;
    assert_eq!(town.get("/docs").await.header("location"), "/docs/");
    let page = town.get("/docs/").await;
    assert_eq!(page.header("content-type"), "text/html");
    assert!(page.text.contains("swagger-ui") && !page.text.contains("https://"));
    assert!(town.get("/docs/swagger-initializer.js").await.text.contains("/openapi.json"));
    assert_eq!(town.get("/docs/nothing.js").await.problem(), "not-found");
}

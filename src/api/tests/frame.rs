//! What holds for every address: who may come in, how errors look, what headers say.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use serde_json::json;
use utoipa::openapi::OpenApi;

use super::Town;
use crate::api::problem::Problem;
use crate::api::question::QuestionPermit;
use crate::api::{Shared, guard};
use crate::config::TokenHash;

/// A town whose interface has other routes.
async fn with_routes(config: &str, routes: Router<Shared>) -> Town {
    let town = Town::new(config).await;
    let shared = Shared::new(Arc::clone(&town.context), &OpenApi::default());
    Town { router: guard::around(routes, &shared).with_state(shared), ..town }
}

pub(super) fn with_tokens() -> String {
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
    let root = town.get("/").await;
    assert_eq!((root.status, root.header("location")), (StatusCode::SEE_OTHER, "/docs/"));
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
    assert!(small.headers.get_all("vary").iter().any(|value| value == "accept-encoding"));
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

#[tokio::test]
async fn a_panic_costs_its_request_and_tells_nothing() {
    async fn panicking() {
        panic!("secret");
    }
    let town = with_routes("", Router::new().route("/", get(panicking))).await;
    let answer = town.get("/").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "internal"));
    assert!(!answer.text.contains("secret") && answer.json()["id"].is_string());
}

#[tokio::test]
async fn questions_wait_for_their_turn_as_long_as_a_question_may_take() {
    async fn slow(question: QuestionPermit) -> Result<(), Problem> {
        question
            .run(async {
                tokio::time::sleep(Duration::from_secs(10)).await;
                Ok::<_, Problem>(())
            })
            .await
    }
    async fn quick(_question: QuestionPermit) -> &'static str {
        "done"
    }
    let routes = Router::new().route("/slow", get(slow)).route("/quick", get(quick));
    let town = with_routes("[query]\ntimeout = \"200ms\"\nconcurrent_max = 1", routes).await;
    let (slow, quick) = tokio::join!(town.get("/slow"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        town.get("/quick").await
    });
    assert_eq!((slow.status, slow.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "timeout"));
    assert_eq!(quick.text, "done");
    let (one, other) = tokio::join!(town.get("/slow"), town.get("/slow"));
    let mut problems = [one.problem(), other.problem()];
    problems.sort();
    assert!(["busy", "timeout"].contains(&problems[0].as_str()) && problems[1] == "timeout", "{problems:?}");
    assert!(!one.header("retry-after").is_empty());
}

#[test]
fn every_operation_is_described() {
    let description = crate::api::description();
    let mut names = std::collections::BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        assert!(path.chars().all(|letter| letter.is_ascii_lowercase() || "/-.{}0123456789".contains(letter)), "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} appears twice");
            for what in ["summary", "tags", "responses"] {
                assert!(operation.get(what).is_some(), "{method} {path} has no {what}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{method} {path}: {status}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {}", parameter["name"]);
            }
        }
    }
    assert!(description["components"]["schemas"]["Problem"]["properties"]["errors"].is_object());
    assert!(description["components"]["securitySchemes"]["token"].is_object());
}

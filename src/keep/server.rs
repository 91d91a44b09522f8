//! The running service, over its own interface.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest11::{Certificate, Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::rows::RowError;
use crate::config::Secret;

/// How long the service may be silent.
const TIMEOUT: Duration = Duration::from_mins(2);

/// How often something is sent again that the service had no room for, a second apart.
const TRIES: u32 = 60;

/// Observations cannot be taken from the service, or brought to it.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The address.
    #[error("{0:?} is no address of a service, such as http://127.0.0.1:8080")]
    Address(String),
    /// The service cannot be reached, or broke off.
    #[error("the service failed")]
    Server(#[from] reqwest11::Error),
    /// The service refuses.
    #[error("the service answers {status}: {text}")]
    Refused { status: StatusCode, text: String },
    /// What it says is not understood.
    #[error("the service's answer is not understood: {0}")]
    Answer(String),
    /// A file.
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: RowError,
    },
    /// The form cannot be told.
    #[error("{} does not tell its form: say --format", .0.display())]
    Form(PathBuf),
}

impl ExchangeError {
    pub(super) fn at<E: Into<RowError>>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source: source.into() }
    }
}

/// Which service, and who asks.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerOptions {
    /// Address of the running service.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    server: String,
    /// A token for it, where it has any.
    #[arg(long, env = "CONCA_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificates to trust, PEM, where its own is not one of the public authorities'.
    #[arg(long)]
    ca_file: Option<PathBuf>,
}

pub(super) struct Server {
    origin: Url,
    client: Client,
    token: Option<Secret>,
}

impl Server {
    pub(super) fn new(options: &ServerOptions) -> Result<Self, ExchangeError> {
        let origin = Url::parse(&options.server).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let origin = origin.ok_or_else(|| ExchangeError::Address(options.server.clone()))?;
        let mut client = Client::builder().connect_timeout(TIMEOUT);
        if let Some(path) = &options.ca_file {
            client = client.add_root_certificate(Certificate::from_pem(&std::fs::read(path).map_err(ExchangeError::at(path))?)?);
        }
        Ok(Self { origin, client: client.build()?, token: options.token.clone().map(Secret::new) })
    }

    /// Asks; the answer may take as long as it takes, but must go on.
    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Response, ExchangeError> {
        succeeded(self.authorised(self.client.get(self.address(path, query))).send().await?).await
    }

    /// Sends a body, again where there is no room for it.
    pub(super) async fn post(&self, path: &str, query: &[(&str, &str)], body: &str) -> Result<Response, ExchangeError> {
        let mut tries = 1..TRIES;
        loop {
            let request = self.client.post(self.address(path, query)).timeout(TIMEOUT).header("content-type", "application/json");
            let answer = self.authorised(request).body(body.to_owned()).send().await?;
            let is_busy = matches!(answer.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
            if !is_busy || tries.next().is_none() {
                return succeeded(answer).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn address(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut address = self.origin.clone();
        address.set_path(path);
        address.query_pairs_mut().clear().extend_pairs(query);
        address
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }
}

/// The next part of an answer.
pub(super) async fn part(answer: &mut Response) -> Result<Option<bytes::Bytes>, ExchangeError> {
    match tokio::time::timeout(TIMEOUT, answer.chunk()).await {
        Ok(part) => Ok(part?),
        Err(_elapsed) => Err(ExchangeError::Answer(format!("it did not go on within {TIMEOUT:?}"))),
    }
}

async fn succeeded(answer: Response) -> Result<Response, ExchangeError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default().chars().take(1_000).collect();
    Err(ExchangeError::Refused { status, text })
}

//! Who connects, and how their statements are cancelled.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion_postgres::pgwire::api::auth::{
    DefaultServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation, save_startup_parameters_to_metadata,
};
use datafusion_postgres::pgwire::api::cancel::CancelHandler;
use datafusion_postgres::pgwire::api::{
    ClientInfo, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator, RandomPidSecretKeyGenerator,
};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::cancel::CancelRequest;
use datafusion_postgres::pgwire::messages::startup::{Authentication, SecretKey};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use futures::sink::{Sink, SinkExt as _};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cursor::Cursors;
use super::session::refusal;
use crate::config::{Role, Token};

/// Connections by the numbers under which cancel requests name them.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<i32, Weak<Session>>>);

/// A connection whose user is known. Ends with it.
#[derive(Debug)]
pub(super) struct Session {
    /// The user.
    pub(super) user: String,
    number: i32,
    secret: SecretKey,
    /// What was declared and not closed.
    pub(super) cursors: Cursors,
    /// Ends the statement that is under way.
    statement: Mutex<CancellationToken>,
    sessions: Arc<Sessions>,
}

impl Session {
    /// A statement begins: what ends it.
    pub(super) fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.statement.lock() = token.clone();
        token
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.number);
    }
}

#[async_trait]
impl CancelHandler for Sessions {
    async fn on_cancel_request(&self, request: CancelRequest) {
        let session = self.0.lock().get(&request.pid).and_then(Weak::upgrade);
        // Of a request only the bytes are known, of a connection what its version of the protocol makes of them.
        if let Some(session) = session.filter(|session| session.secret.to_bytes() == request.secret_key.to_bytes()) {
            session.statement.lock().cancel();
        }
    }
}

/// Lets users in.
pub(super) struct Login {
    tokens: Vec<Token>,
    needs_tls: bool,
    sessions: Arc<Sessions>,
    parameters: DefaultServerParameterProvider,
    numbers: RandomPidSecretKeyGenerator,
}

impl Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Login").field("needs_tls", &self.needs_tls).finish_non_exhaustive()
    }
}

impl Login {
    pub(super) fn new(tokens: Vec<Token>, needs_tls: bool, sessions: Arc<Sessions>) -> Self {
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.is_superuser = false;
        parameters.default_transaction_read_only = true;
        Self { tokens, needs_tls, sessions, parameters, numbers: RandomPidSecretKeyGenerator::default() }
    }

    /// Whether somebody may come in with a password.
    fn knows(&self, user: &str, password: &str) -> bool {
        // All of them are compared, whichever fits.
        let matching: Vec<&Token> = self.tokens.iter().filter(|token| token.sha256.matches(password)).collect();
        matching.iter().any(|token| token.name == user && token.role >= Role::Read)
    }

    async fn let_in<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (number, secret) = self.numbers.generate(client);
        client.set_pid_and_secret_key(number, secret.clone());
        let session = Arc::new(Session {
            user: user(client),
            number,
            secret,
            cursors: Cursors::default(),
            statement: Mutex::default(),
            sessions: Arc::clone(&self.sessions),
        });
        self.sessions.0.lock().insert(number, Arc::downgrade(&session));
        client.session_extensions().insert(session);
        finish_authentication(client, &self.parameters).await
    }
}

fn user(client: &impl ClientInfo) -> String {
    client.metadata().get(METADATA_USER).cloned().unwrap_or_default()
}

#[async_trait]
impl StartupHandler for Login {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(ref startup) => {
                protocol_negotiation(client, startup).await?;
                save_startup_parameters_to_metadata(client, startup);
                if self.needs_tls && !client.is_secure() {
                    return Err(refusal("FATAL", "28000", "only encrypted connections are allowed: sslmode=require".to_owned()));
                }
                if self.tokens.is_empty() {
                    return self.let_in(client).await;
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                client.send(PgWireBackendMessage::Authentication(Authentication::CleartextPassword)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                let password = password.into_password()?;
                if !self.knows(&user(client), &password.password) {
                    let text = "the user is not known by this password: the name of a token that may read, and the token".to_owned();
                    return Err(refusal("FATAL", "28P01", text));
                }
                self.let_in(client).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

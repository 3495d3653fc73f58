//! Who a session is: the gateway by its user, everybody else by SCRAM.

use std::fmt::Debug;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use futures::{Sink, SinkExt};
use pgwire::api::auth::{
    DefaultServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
    save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, METADATA_DATABASE, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator,
};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::startup::{Authentication, PasswordMessageFamily};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use scram::{Exchange, ScramError, Verifier};

use crate::refusal::{Refusal, fatal};
use crate::session::{Role, Session};
use crate::{question, settings};

/// Signs a session in.
pub(crate) struct SignIn(pub(crate) Arc<Session>);

#[async_trait]
impl StartupHandler for SignIn {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                let (user, database) = names(client)?;
                let is_gateway = self.0.peer == self.0.service.settings.gateway_uid;
                if is_gateway && user == question::ROLE && database == question::DATABASE {
                    return self.enter(client, Role::Gateway).await;
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let offer = Authentication::SASL(vec![scram::PLAIN.to_owned()]);
                client.send(PgWireBackendMessage::Authentication(offer)).await?;
                Ok(())
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => self.prove(client, message).await,
            _ => Err(fatal(Refusal::Protocol("a message before the sign-in"))),
        }
    }
}

impl SignIn {
    async fn prove<C>(&self, client: &mut C, message: PasswordMessageFamily) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (user, database) = names(client)?;
        let begun = self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(exchange) = begun else {
            let first = message.into_sasl_initial_response()?;
            let verifier = self.0.service.verifier(&user);
            let verifier = verifier
                .unwrap_or_else(|| Verifier::mock(&self.0.service.mock_secret, &database, user.as_bytes()));
            let data = first.data.unwrap_or_default();
            let exchange = Exchange::start(&first.auth_method, &data, None, verifier);
            let exchange = exchange.map_err(|error| failed(&error, &user))?;
            let challenge = Authentication::SASLContinue(exchange.server_first().to_owned().into());
            *self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner) = Some(exchange);
            client.send(PgWireBackendMessage::Authentication(challenge)).await?;
            return Ok(());
        };
        let last = message.into_sasl_response()?;
        let (signature, _) = exchange.finish(&last.data).map_err(|error| failed(&error, &user))?;
        client
            .send(PgWireBackendMessage::Authentication(Authentication::SASLFinal(signature.into())))
            .await?;
        let there = &self.0.service.settings.database;
        if database != *there {
            return Err(fatal(Refusal::Database { wanted: database, there: there.clone() }));
        }
        self.enter(client, Role::Person).await
    }

    async fn enter<C>(&self, client: &mut C, role: Role) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (pid, secret) = self.0.service.keys.generate(client);
        self.0.take_seat(role, pid, secret.clone())?;
        client.set_pid_and_secret_key(pid, secret);
        let mut said = DefaultServerParameterProvider::default();
        said.server_version = settings::VERSION.to_owned();
        said.is_superuser = false;
        said.default_transaction_read_only = true;
        finish_authentication(client, &said).await
    }
}

/// The user, and the database, which is called as he is where none is named.
fn names(client: &impl ClientInfo) -> PgWireResult<(String, String)> {
    let named = |name: &str| client.metadata().get(name).filter(|value| !value.is_empty()).cloned();
    let user = named(METADATA_USER);
    let user =
        user.ok_or_else(|| fatal(Refusal::Protocol("no PostgreSQL user name specified in startup packet")))?;
    let database = named(METADATA_DATABASE).unwrap_or_else(|| user.clone());
    Ok((user, database))
}

fn failed(error: &ScramError, user: &str) -> PgWireError {
    match error {
        ScramError::WrongProof => fatal(Refusal::Password(user.to_owned())),
        other => {
            tracing::debug!(%other, user, "a sign-in that is none");
            fatal(Refusal::Protocol("malformed SCRAM message"))
        }
    }
}

//! The company's identity provider, by OpenID Connect: authorization code with PKCE and a nonce.
//!
//! What the provider says of itself (where its doors are, its keys) is asked when it is needed, kept for an hour, and
//! asked anew when a signature is of a key that is not known yet: providers change their keys. What somebody is said to
//! be is taken from the ID token, and what is not in there from the userinfo endpoint.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AsyncHttpClient, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken,
    EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    IdTokenFields, IssuerUrl, LogoutRequest, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier,
    PostLogoutRedirectUrl, ProviderMetadataWithLogout, RedirectUrl, Scope, StandardErrorResponse,
    StandardTokenResponse, TokenResponse, UserInfoClaims,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what it says of itself is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// How soon it is asked again because of a key that is not known.
const ASKED_AGAIN: Duration = Duration::from_secs(5);
/// Largest answer of a provider, bytes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// How the provider is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its address, as it stands in its tokens.
    pub issuer: String,
    /// What Stead is called there.
    pub client_id: String,
    /// What Stead proves itself with; none for a public client.
    pub client_secret: Option<SecretString>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that names the groups of somebody.
    pub groups_claim: String,
    /// Where the provider sends the browser back to.
    pub redirect: String,
}

/// Why somebody could not be signed in by the provider.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that cannot be.
    #[error("{0}")]
    Settings(String),
    /// It does not answer, or not as it should.
    #[error("the identity provider {issuer} does not answer as it should: {why}")]
    Provider {
        /// Which.
        issuer: String,
        /// What happened.
        why: String,
    },
    /// What it says is not about this sign-in.
    #[error("what the identity provider answered cannot be trusted: {0}; begin again")]
    Untrusted(String),
    /// It does not say who that is.
    #[error(
        "the identity provider does not say which e-mail address this is; it has to give the claim `email`"
    )]
    Nameless,
}

/// What a browser has to bring back from the provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pending {
    state: String,
    nonce: String,
    verifier: String,
}

/// Somebody whom the provider vouches for.
#[derive(Debug)]
pub struct Proven {
    /// Who they are there; never given to somebody else.
    pub subject: String,
    /// Their e-mail address, in lower case.
    pub email: String,
    /// Groups that they are in there.
    pub groups: Vec<String>,
    /// The token itself, which the provider wants to see when they sign out.
    pub id_token: SecretString,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
struct Others {
    #[serde(flatten)]
    claims: HashMap<String, Value>,
}
impl AdditionalClaims for Others {}

type Fields = IdTokenFields<
    Others,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Answer = StandardTokenResponse<Fields, CoreTokenType>;
type Relying = Client<
    Others,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    Answer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

struct Known {
    metadata: ProviderMetadataWithLogout,
    at: Instant,
    /// When it was last asked because of a key.
    for_key: Option<Instant>,
}

/// The company's identity provider.
pub struct Provider {
    settings: Settings,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    http: Http,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0}")]
    Request(#[from] reqwest::Error),
    #[error("{0}")]
    Http(#[from] openidconnect::http::Error),
    #[error("its answer is longer than {LARGEST_ANSWER} bytes")]
    Long,
}

/// The client that the library asks by; bounded in time and in what it takes.
struct Http(reqwest::Client);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut response = self.0.execute(request.try_into()?).await?;
            let mut builder = openidconnect::http::Response::builder().status(response.status());
            if let Some(headers) = builder.headers_mut() {
                headers.clone_from(response.headers());
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > LARGEST_ANSWER {
                    return Err(HttpError::Long);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(builder.body(body)?)
        })
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(source) = inner {
        let said = source.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        inner = source.source();
    }
    text
}

impl Provider {
    /// A provider that is asked nothing yet.
    ///
    /// # Errors
    /// [`Error::Settings`]: without TLS only where it is on this host.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let wrong = |why: String| Error::Settings(format!("the identity provider's address {why}"));
        let url = Url::parse(&settings.issuer).map_err(|error| wrong(format!("is none: {error}")))?;
        let here = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err(wrong("has to begin with https://".into()));
        }
        let issuer = IssuerUrl::new(settings.issuer.clone()).map_err(|error| wrong(error.to_string()))?;
        let redirect = RedirectUrl::new(settings.redirect.clone())
            .map_err(|error| Error::Settings(error.to_string()))?;
        // Once a process; whoever did it before has done it for us.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A provider that could send us elsewhere could have us ask what only we may ask.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(|error| Error::Settings(causes(&error)))?;
        Ok(Self { settings, issuer, redirect, http: Http(http), known: Mutex::new(None) })
    }

    /// Its address.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Provider { issuer: self.settings.issuer.clone(), why: causes(error) }
    }

    /// What the provider says of itself. It is asked anew after a while, and at once (but not all the time) where a key
    /// is not among those that are known.
    async fn metadata(&self, key_missing: bool) -> Result<ProviderMetadataWithLogout, Error> {
        let mut known = self.known.lock().await;
        let for_key = known.as_ref().and_then(|known| known.for_key);
        let asks = key_missing && for_key.is_none_or(|at| at.elapsed() > ASKED_AGAIN);
        if let Some(known) = known.as_ref().filter(|known| !asks && known.at.elapsed() < KEPT) {
            return Ok(known.metadata.clone());
        }
        let metadata = ProviderMetadataWithLogout::discover_async(self.issuer.clone(), &self.http)
            .await
            .map_err(|error| self.failed(&error))?;
        let now = Instant::now();
        let for_key = if asks { Some(now) } else { for_key };
        *known = Some(Known { metadata: metadata.clone(), at: now, for_key });
        Ok(metadata)
    }

    fn relying(&self, metadata: ProviderMetadataWithLogout) -> Relying {
        let secret = self.settings.client_secret.as_ref();
        let secret = secret.map(|secret| ClientSecret::new(secret.expose_secret().to_owned()));
        let client = ClientId::new(self.settings.client_id.clone());
        Client::from_provider_metadata(metadata, client, secret).set_redirect_uri(self.redirect.clone())
    }

    /// Begins: where the browser is to be sent, and what it has to bring back.
    ///
    /// # Errors
    /// [`Error::Provider`].
    pub async fn begin(&self) -> Result<(Url, Pending), Error> {
        let client = self.relying(self.metadata(false).await?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow =
            openidconnect::AuthenticationFlow::<openidconnect::core::CoreResponseType>::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .set_pkce_challenge(challenge);
        for scope in &self.settings.scopes {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        let (url, state, nonce) = request.url();
        let (state, nonce) = (state.secret().clone(), nonce.secret().clone());
        Ok((url, Pending { state, nonce, verifier: verifier.secret().clone() }))
    }

    /// Ends: who that is, by what the browser brought back.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn finish(&self, pending: &Pending, state: &str, code: &str) -> Result<Proven, Error> {
        if state.is_empty() || state != pending.state {
            return Err(Error::Untrusted("it belongs to another sign-in".into()));
        }
        let client = self.relying(self.metadata(false).await?);
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|error| self.failed(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(pending.verifier.clone()));
        let answer = request.request_async(&self.http).await.map_err(|error| self.failed(&error))?;
        let token = answer.id_token().ok_or_else(|| Error::Untrusted("it gave no ID token".into()))?;
        let nonce = Nonce::new(pending.nonce.clone());
        let claims = match token.claims(&client.id_token_verifier(), &nonce) {
            Ok(claims) => claims.clone(),
            Err(first) => {
                // Perhaps by a key that is newer than what we know.
                let client = self.relying(self.metadata(true).await?);
                let claims = token.claims(&client.id_token_verifier(), &nonce);
                claims.map_err(|_| Error::Untrusted(causes(&first)))?.clone()
            }
        };
        let subject = claims.subject().to_string();
        let mut email = claims.email().map(|email| email.as_str().to_owned());
        let mut verified = claims.email_verified();
        let mut groups = groups(&claims.additional_claims().claims, &self.settings.groups_claim);
        if (email.is_none() || groups.is_none())
            && let Ok(request) =
                client.user_info(answer.access_token().clone(), Some(claims.subject().clone()))
        {
            let info: UserInfoClaims<Others, CoreGenderClaim> =
                request.request_async(&self.http).await.map_err(|error| self.failed(&error))?;
            if email.is_none() {
                (email, verified) =
                    (info.email().map(|email| email.as_str().to_owned()), info.email_verified());
            }
            groups = groups
                .or_else(|| self::groups(&info.additional_claims().claims, &self.settings.groups_claim));
        }
        let email = email.map(|email| email.trim().to_lowercase()).filter(|email| email.contains('@'));
        let email = email.ok_or(Error::Nameless)?;
        if verified == Some(false) {
            return Err(Error::Untrusted(format!("the address {email} is not verified there")));
        }
        let id_token = SecretString::from(token.to_string());
        Ok(Proven { subject, email, groups: groups.unwrap_or_default(), id_token })
    }

    /// Where a browser is sent to sign out there too; `None` where the provider has no such door.
    pub async fn sign_out(&self, id_token: &SecretString, back: &str) -> Option<Url> {
        let metadata = self.metadata(false).await.ok()?;
        let door = metadata.additional_metadata().end_session_endpoint.clone()?;
        let back = PostLogoutRedirectUrl::new(back.to_owned()).ok()?;
        let token: openidconnect::core::CoreIdToken = id_token.expose_secret().parse().ok()?;
        let request = LogoutRequest::from(door)
            .set_id_token_hint(&token)
            .set_client_id(ClientId::new(self.settings.client_id.clone()))
            .set_post_logout_redirect_uri(back);
        Some(request.http_get_url())
    }
}

/// The groups that claims name: a list of texts, or one text.
fn groups(claims: &HashMap<String, Value>, name: &str) -> Option<Vec<String>> {
    match claims.get(name)? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(several) => {
            Some(several.iter().filter_map(|group| group.as_str().map(str::to_owned)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(issuer: &str) -> Settings {
        Settings {
            issuer: issuer.into(),
            client_id: "stead".into(),
            client_secret: None,
            scopes: vec!["email".into()],
            groups_claim: "groups".into(),
            redirect: "http://127.0.0.1:7878/sign-in/back".into(),
        }
    }

    #[test]
    fn a_provider_elsewhere_needs_tls() {
        for issuer in ["http://login.example.com", "ftp://127.0.0.1", "login", ""] {
            assert!(matches!(Provider::new(settings(issuer)), Err(Error::Settings(_))), "{issuer}");
        }
    }

    #[test]
    fn groups_are_a_list_or_one() {
        let claims = |value: Value| HashMap::from([("groups".to_owned(), value)]);
        assert_eq!(groups(&claims("a".into()), "groups"), Some(vec!["a".into()]));
        assert_eq!(groups(&claims(serde_json::json!(["a", 1, "b"])), "groups").unwrap().len(), 2);
        assert_eq!(groups(&claims(Value::Null), "groups"), None);
        assert_eq!(groups(&claims("a".into()), "roles"), None);
    }
}

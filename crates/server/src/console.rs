//! What the console is told of its surroundings: where people reach it, and who vouches for them.

use identity::oidc::Provider;
use identity::password::Passwords;
use url::Url;

use crate::sign_in::rules::Rules;
use crate::sign_in::strangers::Strangers;

/// Settings of the console.
#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    /// Where people reach it, like `https://console.example.com/stead`; a path is the prefix of every page.
    pub url: Url,
    /// The company's identity provider, where there is one.
    pub provider: Option<ProviderSettings>,
}

/// The company's identity provider.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Its address.
    pub issuer: String,
    /// What Stead is called there.
    pub client_id: String,
    /// What Stead proves itself with.
    pub client_secret: Option<secrecy::SecretString>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that names somebody's groups.
    pub groups_claim: String,
    /// What groups give.
    pub rules: Vec<crate::sign_in::rules::Rule>,
}

/// The console as its parts know it.
pub(crate) struct Console {
    /// Without a slash at the end.
    url: String,
    /// Prefix of every path; empty where there is none.
    base: String,
    /// `scheme://host:port`, as browsers name it.
    origin: String,
    /// Whether people reach it by TLS.
    pub(crate) secure: bool,
    /// The identity provider, and what its groups give.
    pub(crate) provider: Option<(Provider, Rules)>,
    /// Works with passwords.
    pub(crate) passwords: Passwords,
    /// Who guesses at accounts that do not exist.
    pub(crate) strangers: Strangers,
}

/// Why a console cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The identity provider's settings.
    #[error(transparent)]
    Provider(#[from] identity::oidc::Error),
    /// The passwords.
    #[error(transparent)]
    Password(#[from] identity::password::Error),
}

impl Console {
    pub(crate) fn new(settings: &ConsoleSettings) -> Result<Self, ConsoleError> {
        let url = settings.url.as_str().trim_end_matches('/').to_owned();
        let base = settings.url.path().trim_end_matches('/').to_owned();
        let provider = match &settings.provider {
            None => None,
            Some(provider) => {
                let rules = Rules(provider.rules.clone());
                let settings = identity::oidc::Settings {
                    issuer: provider.issuer.clone(),
                    client_id: provider.client_id.clone(),
                    client_secret: provider.client_secret.clone(),
                    scopes: provider.scopes.clone(),
                    groups_claim: provider.groups_claim.clone(),
                    redirect: format!("{url}/sign-in/back"),
                };
                Some((Provider::new(settings)?, rules))
            }
        };
        Ok(Self {
            origin: settings.url.origin().ascii_serialization(),
            secure: settings.url.scheme() == "https",
            base,
            url,
            provider,
            passwords: Passwords::new()?,
            strangers: Strangers::default(),
        })
    }

    /// Where people reach it, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Prefix of every path.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `scheme://host:port`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }
}

//! The environment that a function finds, as on Lambda.
//!
//! Two halves. What is the same for every function is there when a spare starts ([`of_spare`]), so that an interpreter
//! reads it at its own start; what belongs to one function is passed in when the spare is claimed ([`of_function`]).
//! A few variables of a function's own are read by interpreters at their start and never again: who sets one of those
//! gets no spare that runs already ([`is_read_at_start`]).

use std::collections::BTreeMap;

use keeper::wire::RUNTIME_API;

use crate::route::{Database, Route, Version};

/// The region in ARNs and in `AWS_REGION`.
pub(crate) const REGION: &str = "local";

/// Tells the bootstrap at which port a debugger will look for it; the function does not see it.
pub(crate) const INSPECT: &str = "STEAD_INSPECT";

/// What every worker has from its first moment.
pub(crate) fn of_spare() -> BTreeMap<String, String> {
    [
        ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        (
            "LD_LIBRARY_PATH",
            "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
        ),
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("HOME", "/tmp"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("NODE_PATH", "/opt/nodejs/node_modules:/var/runtime/node_modules"),
        // What a package loads is read-only, and the same again in the next worker.
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONPATH", "/var/runtime"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The whole environment of a function.
pub(crate) fn of_function(
    route: &Route,
    number: u64,
    version: &Version,
    stream: &str,
) -> BTreeMap<String, String> {
    let mut env = of_spare();
    let uses = |name: &String| version.uses.as_ref().is_none_or(|uses| uses.contains(name));
    if let Some((name, database)) = first_database(route.databases.iter().filter(|(name, _)| uses(name))) {
        env.extend(of_database(name, database));
    }
    env.extend(version.environment.clone());
    let secrets = route.secrets.0.iter().filter(|(name, _)| version.secrets.contains(*name));
    env.extend(secrets.map(|(name, value)| (name.clone(), value.clone())));
    // What Lambda reserves, a function cannot set.
    let runtime = &version.runtime;
    let reserved = [
        ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API.to_owned()),
        ("_HANDLER", version.handler.clone()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", route.function.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", number.to_string()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", version.memory_mib.to_string()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", log_group(&route.function)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", stream.to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_EXECUTION_ENV", format!("AWS_Lambda_{runtime}")),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
    ];
    env.extend(reserved.map(|(name, value)| (name.to_owned(), value)));
    env
}

/// Lambda's name of the log group.
pub(crate) fn log_group(function: &str) -> String {
    format!("/aws/lambda/{function}")
}

/// Lambda's ARN of a function, or of one version of it.
pub(crate) fn arn(route: &Route, qualifier: Option<u64>) -> String {
    let qualifier = qualifier.map_or(String::new(), |version| format!(":{version}"));
    format!("arn:aws:lambda:{REGION}:{}:function:{}{qualifier}", route.tenant, route.function)
}

/// The one that a function means that names none: `main`, or the first.
pub(crate) fn first_database<'d>(
    databases: impl Iterator<Item = (&'d String, &'d Database)> + Clone,
) -> Option<(&'d String, &'d Database)> {
    databases.clone().find(|(name, _)| *name == "main").or_else(|| databases.clone().next())
}

/// Where the pool is. Whoever speaks there is known by the listener, so the password may be any.
fn of_database(name: &str, database: &Database) -> [(String, String); 6] {
    let role = &database.role;
    [
        ("DATABASE_URL", format!("postgres://{role}:sandbox@127.0.0.1:5432/{name}?sslmode=disable")),
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", "5432".to_owned()),
        ("PGUSER", role.clone()),
        ("PGDATABASE", name.to_owned()),
        ("PGPASSWORD", "sandbox".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// Whether an interpreter, or the system's loader, reads a variable at its own start and never again.
pub(crate) fn is_read_at_start(name: &str) -> bool {
    const NAMES: &[&str] =
        &["TZ", "LANG", "LANGUAGE", "UV_THREADPOOL_SIZE", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZDIR"];
    const BEGINNINGS: &[&str] = &["NODE_", "PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_", "OPENSSL_", "UV_"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_interpreters_read_once_is_known() {
        for name in ["NODE_OPTIONS", "PYTHONPATH", "LD_PRELOAD", "TZ", "LC_ALL", "UV_THREADPOOL_SIZE"] {
            assert!(is_read_at_start(name), "{name}");
        }
        for name in ["DATABASE_URL", "MY_NODE_OPTIONS", "LANGUAGES", "TZX"] {
            assert!(!is_read_at_start(name), "{name}");
        }
    }
}

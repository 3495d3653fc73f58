//! The fields of a function in a manifest, each parsed once for both notations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Access, Digest, Egress, Runtime, Schedule, Variable, Wish};
use crate::manifest::{Fault, Node, Notation, Problems, Table, fields, shown, unfit};
use crate::{ComponentName, Kind};

/// A function as a manifest asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Function {
    /// What is wanted. Out of TOML it has no `code` until the folder was made a package.
    pub wish: Wish,
    /// Folder of the code, or a zip, relative to the manifest; out of TOML only.
    pub code: Option<PathBuf>,
}

/// How a function is written.
pub(crate) const NOTATION: Notation = Notation {
    kind: Kind::Function,
    noun: "a function",
    like: "api",
    settings: "{\"code\": \"sha256:…\", \"runtime\": \"nodejs24.x\", \"handler\": \"index.handler\"}",
    fields: FIELDS,
    reserved: |_| None,
};

/// Every field.
const FIELDS: &[&str] = &[
    "code",
    "runtime",
    "handler",
    "memory",
    "timeout",
    "concurrency",
    "environment",
    "secrets",
    "uses",
    "url",
    "schedule",
    "egress",
    "owner",
    "runbook",
];

/// Lambda's limits.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 128..=10_240;
const TIMEOUT_S: std::ops::RangeInclusive<u32> = 1..=900;
const CONCURRENCY: std::ops::RangeInclusive<u32> = 1..=1_000;
/// Lambda's limit of all names and values of an environment, bytes.
const LARGEST_ENVIRONMENT: usize = 4_096;
/// Lambda's limit of a handler's name, characters.
const LONGEST_HANDLER: usize = 128;

/// Reads a function.
pub(crate) fn function(table: &Table<'_>, problems: &mut Problems<'_>) -> Function {
    table.refuse_unknown(FIELDS, problems, other_word);
    let mut function = Function {
        wish: Wish {
            code: None,
            runtime: table.read("runtime", problems, runtime),
            handler: table.read("handler", problems, handler),
            memory_mib: table.read("memory", problems, |node| number(node, MEMORY_MIB, "MiB")),
            timeout_s: table.read("timeout", problems, |node| number(node, TIMEOUT_S, "seconds")),
            concurrency: table.read("concurrency", problems, |node| number(node, CONCURRENCY, "workers")),
            environment: table
                .get("environment")
                .map_or_else(BTreeMap::new, |node| environment(node, problems)),
            secrets: table
                .read_list("secrets", "[\"STRIPE_KEY\"]", problems, secret)
                .map_or_else(BTreeSet::new, |names| names.into_iter().collect()),
            uses: table
                .read_list("uses", "[\"postgres.main\"]", problems, uses)
                .map_or_else(BTreeSet::new, |uses| uses.into_iter().collect()),
            url: table.read("url", problems, url).flatten(),
            schedule: table.read("schedule", problems, schedule),
            egress: table
                .read_list("egress", "[\"api.example.com\"]", problems, egress)
                .map_or_else(BTreeSet::new, |names| names.into_iter().collect()),
            owner: table.read("owner", problems, fields::owner),
            runbook: table.read("runbook", problems, fields::runbook),
        },
        code: None,
    };
    let twice =
        function.wish.secrets.iter().find(|name| function.wish.environment.contains_key(name.as_str()));
    if let (Some(name), Some(node)) = (twice, table.get("secrets")) {
        let help = "take it out of one of the two";
        problems.add(node, Fault::new(format!("`{name}` is in `environment` as well"), "there twice", help));
    }
    match table.get("code") {
        Some(node) if node.is_json() => {
            function.wish.code = table.read("code", problems, |node| {
                let like = "send sha256: and the 64 hexadecimal digits of a package that was uploaded";
                let text = node.text().ok_or_else(|| node.not("the hash of a package", like))?;
                text.parse::<Digest>().map_err(|bad| fields::told(&bad, "not a hash", like))
            });
        }
        _ => {
            function.code = table.read("code", problems, |node| {
                fields::folder(node, "name a folder (or a zip) beside the manifest, like code = \"api\"")
            });
        }
    }
    function
}

/// What people call a field elsewhere.
fn other_word(key: &str) -> Option<String> {
    let meant = match key.to_ascii_lowercase().replace('-', "_").as_str() {
        "source" | "src" | "path" | "folder" | "code_uri" | "codeuri" | "package" | "zip" => "code",
        "language" | "interpreter" => "runtime",
        "entrypoint" | "entry" | "main" => "handler",
        "memory_size" | "memorysize" | "memory_mib" | "memory_mb" | "ram" => "memory",
        "timeout_s" | "timeout_seconds" | "deadline" => "timeout",
        "reserved_concurrency" | "max_instances" | "instances" | "workers" | "max_concurrency" => {
            "concurrency"
        }
        "env" | "variables" | "environment_variables" => "environment",
        "secret" | "secret_environment" | "credentials" => "secrets",
        "databases" | "database" | "depends_on" | "links" => "uses",
        "public" | "function_url" | "http" | "endpoint" => "url",
        "cron" | "rate" | "timer" | "every" => "schedule",
        "network" | "outbound" | "allow" | "internet" => "egress",
        "team" | "contact" | "owned_by" => "owner",
        "docs" | "documentation" | "playbook" => "runbook",
        "name" | "function_name" => {
            return Some("a function's name is in the heading: [function.api]".into());
        }
        "role" | "port" | "layers" | "architectures" => {
            return Some("Stead has none of it: take the line out".into());
        }
        _ => return None,
    };
    Some(format!("that is called `{meant}` here"))
}

fn runtime(node: &Node<'_>) -> Result<Runtime, Fault> {
    let text = node.text().ok_or_else(|| node.not("a runtime", "write it like \"nodejs24.x\""))?;
    text.parse::<Runtime>().map_err(|bad| fields::told(&bad, "not a runtime", "write it like \"nodejs24.x\""))
}

fn handler(node: &Node<'_>) -> Result<String, Fault> {
    const LIKE: &str = "name file and function, like \"index.handler\"";
    let text = node.text().ok_or_else(|| node.not("a handler", LIKE))?;
    let fits = (1..=LONGEST_HANDLER).contains(&text.len())
        && !text.contains("..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-:".contains(&b));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(format!("\"{}\" is not a handler", shown(text)), "not a handler", LIKE))
    }
}

fn number(node: &Node<'_>, range: std::ops::RangeInclusive<u32>, unit: &str) -> Result<u32, Fault> {
    let help = || format!("write a whole number of {unit} from {} to {}", range.start(), range.end());
    let number = node.whole().ok_or_else(|| node.not("a whole number", help()))?;
    u32::try_from(number)
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| Fault::new(format!("{} is out of range", node.describe()), "out of range", help()))
}

fn environment(node: &Node<'_>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    const LIKE: &str = "write it like { LOG_LEVEL = \"debug\" }";
    let mut environment = BTreeMap::new();
    let Some(table) = node.table() else {
        problems.add(node, node.not("a table of variables", LIKE));
        return environment;
    };
    for entry in &table.entries {
        match variable(entry.key, &entry.value) {
            Ok(value) => {
                environment.insert(entry.key.to_owned(), value);
            }
            Err(fault) => problems.add_at(&entry.value.path, entry.key_span.clone(), fault),
        }
    }
    let bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > LARGEST_ENVIRONMENT {
        let help = format!("names and values may have {LARGEST_ENVIRONMENT} bytes together");
        problems.add(node, Fault::new(format!("has {bytes} bytes"), "too large", help));
    }
    environment
}

fn variable(name: &str, value: &Node<'_>) -> Result<String, Fault> {
    name.parse::<Variable>()
        .map_err(|bad| fields::told(&bad, "not a variable", "write it like LOG_LEVEL"))?;
    let text = value
        .text()
        .ok_or_else(|| value.not("a text", "values of variables are texts: put it into quotes"))?;
    if let Some(bad) = text.chars().find(|c| unfit(*c) && !"\n\t".contains(*c)) {
        let message = format!("holds the character {}", bad.escape_unicode());
        return Err(Fault::new(message, "not plain text", "write plain text"));
    }
    Ok(text.to_owned())
}

fn secret(node: &Node<'_>) -> Result<Variable, Fault> {
    const LIKE: &str = "write it like \"STRIPE_KEY\"";
    let text = node.text().ok_or_else(|| node.not("the name of a secret", LIKE))?;
    text.parse::<Variable>().map_err(|bad| fields::told(&bad, "not a variable", LIKE))
}

fn uses(node: &Node<'_>) -> Result<ComponentName, Fault> {
    const LIKE: &str = "write it like \"postgres.main\"";
    let text = node.text().ok_or_else(|| node.not("a component", LIKE))?;
    text.parse::<ComponentName>().map_err(|bad| fields::told(&bad, "not a component", LIKE))
}

/// `false` says that it has none.
fn url(node: &Node<'_>) -> Result<Option<Access>, Fault> {
    const LIKE: &str =
        "write true or \"public\" (anybody may call), or \"token\" (who has the function's token)";
    match (node.truth(), node.text()) {
        (Some(false), _) => Ok(None),
        (Some(true), _) | (_, Some("public")) => Ok(Some(Access::Public)),
        (_, Some("token")) => Ok(Some(Access::Token)),
        _ => Err(node.not("who may call", LIKE)),
    }
}

fn schedule(node: &Node<'_>) -> Result<Schedule, Fault> {
    const LIKE: &str = "write it like \"0 6 * * mon-fri Europe/Zurich\"";
    let text = node.text().ok_or_else(|| node.not("a schedule", LIKE))?;
    text.parse::<Schedule>().map_err(|bad| fields::told(&bad, "not a schedule", LIKE))
}

fn egress(node: &Node<'_>) -> Result<Egress, Fault> {
    const LIKE: &str = "write it like \"api.example.com\"";
    let text = node.text().ok_or_else(|| node.not("a name", LIKE))?;
    text.parse::<Egress>().map_err(|bad| fields::told(&bad, "not a name", LIKE))
}

impl Function {
    /// The function as an API body has it: what is left out stays left out.
    pub(crate) fn to_json(&self) -> Value {
        let Wish {
            code,
            runtime,
            handler,
            memory_mib,
            timeout_s,
            concurrency,
            environment,
            secrets,
            uses,
            url,
            schedule,
            egress,
            owner,
            runbook,
        } = &self.wish;
        let mut body = serde_json::Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("code", code.map(|code| json!(code)));
        put("runtime", runtime.map(|runtime| json!(runtime)));
        put("handler", handler.as_ref().map(|handler| json!(handler)));
        put("memory", memory_mib.map(|memory| json!(memory)));
        put("timeout", timeout_s.map(|timeout| json!(timeout)));
        put("concurrency", concurrency.map(|workers| json!(workers)));
        put("environment", (!environment.is_empty()).then(|| json!(environment)));
        put("secrets", (!secrets.is_empty()).then(|| json!(secrets)));
        put("uses", (!uses.is_empty()).then(|| json!(uses)));
        put("url", url.map(|access| json!(access)));
        put("schedule", schedule.as_ref().map(|schedule| json!(schedule.to_string())));
        put("egress", (!egress.is_empty()).then(|| json!(egress)));
        put("owner", owner.as_ref().map(|owner| json!(owner)));
        put("runbook", runbook.as_ref().map(|runbook| json!(runbook)));
        Value::Object(body)
    }
}

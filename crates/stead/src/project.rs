//! A folder with a `stead.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use component::function::Digest;
use component::manifest::{self, Manifest, migrations};
use component::{SteadName, TenantName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Failure;

const MANIFEST: &str = "stead.toml";

/// The folder.
pub(crate) struct Project {
    folder: PathBuf,
}

/// What the folder asks for.
pub(crate) struct Wanted {
    /// The body of the call.
    pub(crate) body: Value,
    /// The packages that it names.
    pub(crate) packages: BTreeMap<Digest, Vec<u8>>,
}

/// `.stead/context.json`: which stead the folder is about, so that it need not be said each time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) tenant: TenantName,
    pub(crate) stead: SteadName,
}

impl Project {
    /// The nearest folder from here upwards that has a manifest.
    pub(crate) fn find(from: &Path) -> Option<Self> {
        let from = std::fs::canonicalize(from).ok()?;
        let folder = from.ancestors().find(|folder| folder.join(MANIFEST).is_file())?;
        Some(Self { folder: folder.to_owned() })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same, or what to do about it.
    pub(crate) fn here() -> Result<Self, Failure> {
        Self::find(Path::new(".")).ok_or_else(|| {
            Failure::Usage(
                "there is no stead.toml in this folder or above it; go to an app's folder, or write one:\n\n  \
                 app = \"shop\"\n  [postgres.main]\n"
                    .into(),
            )
        })
    }

    /// The manifest with the migrations read in and the code packed.
    pub(crate) fn wanted(&self) -> Result<Wanted, Failure> {
        let mut manifest = self.manifest()?;
        let mut packages = BTreeMap::new();
        for (name, function) in &mut manifest.function {
            let Some(code) = function.code.take() else { continue };
            let path = self.folder.join(&code);
            let place = |why: String| Failure::Usage(format!("{MANIFEST}: function.{name}.code: {why}"));
            let zip = self.package(&path, &code).map_err(place)?;
            let digest = package::digest(&zip);
            function.wish.code = Some(digest);
            packages.insert(digest, zip);
        }
        Ok(Wanted { body: manifest::to_json(&manifest), packages })
    }

    /// The package of a folder, or the zip that somebody else made.
    fn package(&self, path: &Path, code: &Path) -> Result<Vec<u8>, String> {
        if path.is_file() {
            let zip =
                std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", code.display()))?;
            return package::check(&zip)
                .map(|_| zip)
                .map_err(|refused| format!("{}: {refused}", code.display()));
        }
        if !path.is_dir() {
            let code = code.display();
            return Err(format!("there is no folder `{code}` beside {MANIFEST}; make it, or name another"));
        }
        package::build(path).map_err(|error| error.to_string())
    }

    /// The manifest with the migrations read in.
    fn manifest(&self) -> Result<Manifest, Failure> {
        let path = self.folder.join(MANIFEST);
        let bytes = std::fs::read(&path)
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::Usage(format!("{} is not UTF-8 (from byte {at} on); save it as UTF-8", path.display()))
        })?;
        let mut manifest =
            manifest::parse(MANIFEST, &text).map_err(|error| Failure::Manifest(Box::new(error)))?;
        for (name, server) in &mut manifest.postgres {
            if let Some(folder) = server.schema.take() {
                let line = text.lines().position(|line| {
                    line.trim_start().starts_with("schema") && line.contains(&*folder.to_string_lossy())
                });
                let place = match line {
                    Some(line) => format!("{MANIFEST}:{}: postgres.{name}.schema", line + 1),
                    None => format!("{MANIFEST}: postgres.{name}.schema"),
                };
                let texts = self.texts(&folder).map_err(|why| Failure::Usage(format!("{place}: {why}")))?;
                let (list, files) = migrations(texts).map_err(|errors| {
                    let all: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
                    Failure::Usage(format!("{place}: {}", all.join("\n  ")))
                })?;
                server.wish.schema = list;
                server.files = files;
            }
        }
        Ok(manifest)
    }

    /// Files of a schema folder that end in `.sql`, name and text; or why they cannot be read.
    fn texts(&self, named: &Path) -> Result<Vec<(String, String)>, String> {
        let folder = self.folder.join(named);
        let wrong = |path: &Path, error: &std::io::Error| format!("cannot read {}: {error}", path.display());
        if !folder.is_dir() {
            let named = named.display();
            return Err(format!(
                "there is no folder `{named}` beside {MANIFEST}; make it, or take the line out"
            ));
        }
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|error| wrong(&folder, &error))? {
            let path = entry.map_err(|error| wrong(&folder, &error))?.path();
            if path.extension().is_none_or(|extension| extension != "sql") {
                continue;
            }
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read(&path).map_err(|error| wrong(&path, &error))?;
            let text = String::from_utf8(text).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                format!("{} is not UTF-8 (from byte {at} on); save it as UTF-8", path.display())
            })?;
            texts.push((name, text));
        }
        Ok(texts)
    }

    /// The app's name, if the manifest can be read.
    pub(crate) fn app_name(&self) -> Option<SteadName> {
        let text = std::fs::read_to_string(self.folder.join(MANIFEST)).ok()?;
        manifest::parse(MANIFEST, &text).ok().map(|manifest| manifest.app)
    }

    fn memory(&self) -> PathBuf {
        self.folder.join(".stead/context.json")
    }

    /// Which stead this folder was last brought up as.
    pub(crate) fn remembered(&self) -> Option<Remembered> {
        serde_json::from_slice(&std::fs::read(self.memory()).ok()?).ok()
    }

    /// Remembers the first stead that the folder is brought up as; others are named each time.
    pub(crate) fn remember(&self, stead: &Remembered) -> Result<(), Failure> {
        if self.remembered().is_some() {
            return Ok(());
        }
        let path = self.memory();
        let written = std::fs::create_dir_all(self.folder.join(".stead"))
            .and_then(|()| std::fs::write(self.folder.join(".stead/.gitignore"), "*\n"))
            .and_then(|()| std::fs::write(&path, serde_json::json!(stead).to_string()));
        written.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
    }

    /// Forgets it.
    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.folder.join(".stead"));
    }
}

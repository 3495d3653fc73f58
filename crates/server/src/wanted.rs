//! From the body of a request to what the store is told to bring about.

use std::collections::{BTreeMap, BTreeSet};

use component::{
    ComponentName, Kind, LocalName, Offer, Refused, Spec, SteadName, function, manifest, postgres, transfer,
};
use serde_json::{Value, json};
use store::stead::Stead;

use crate::problem::Problem;

/// A component as it is asked for.
#[derive(Debug)]
enum Wish {
    Postgres(postgres::Wish),
    Function(function::Wish),
    Transfer(transfer::Wish),
}

impl Wish {
    /// Resolves it; with `named` only those fields count.
    fn resolve(
        &self,
        named: Option<&BTreeSet<&str>>,
        current: Option<&Spec>,
        offer: &Offer,
    ) -> Result<Spec, Refused> {
        Ok(match (self, current) {
            (Self::Postgres(wish), Some(Spec::Postgres(current))) => Spec::Postgres(match named {
                Some(named) => postgres::amend(wish, named, current, offer)?,
                None => postgres::resolve(wish, Some(current), offer)?,
            }),
            (Self::Function(wish), Some(Spec::Function(current))) => Spec::Function(match named {
                Some(named) => function::amend(wish, named, current, offer)?,
                None => function::resolve(wish, Some(current), offer)?,
            }),
            (Self::Transfer(wish), Some(Spec::Transfer(current))) => Spec::Transfer(match named {
                Some(named) => transfer::amend(wish, named, current, offer)?,
                None => transfer::resolve(wish, Some(current), offer)?,
            }),
            (Self::Postgres(wish), _) => Spec::Postgres(postgres::resolve(wish, None, offer)?),
            (Self::Function(wish), _) => Spec::Function(function::resolve(wish, None, offer)?),
            (Self::Transfer(wish), _) => Spec::Transfer(transfer::resolve(wish, None, offer)?),
        })
    }
}

/// A stead as it is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The app.
    pub(crate) app: SteadName,
    wishes: BTreeMap<ComponentName, Wish>,
    /// The fields that were named, by component, where all others stay as they are.
    named: Option<BTreeMap<ComponentName, BTreeSet<String>>>,
    /// Texts that the wishes name by hash, by component.
    pub(crate) files: BTreeMap<ComponentName, BTreeMap<String, String>>,
}

impl Wanted {
    /// Reads a body; none means one server with defaults.
    pub(crate) fn read(body: Option<&Value>, stead: &SteadName) -> Result<Self, Problem> {
        let one_server = json!({ "postgres": { "main": {} } });
        let manifest = manifest::from_json(body.unwrap_or(&one_server), stead).map_err(|errors| {
            Problem::fields(errors.into_iter().map(|error| (error.pointer, error.message)).collect())
        })?;
        let mut wanted =
            Self { app: manifest.app, wishes: BTreeMap::new(), named: None, files: BTreeMap::new() };
        let name = |kind: Kind, local: LocalName| ComponentName { kind, local };
        for (local, server) in manifest.postgres {
            let name = name(Kind::Postgres, local);
            wanted.wishes.insert(name.clone(), Wish::Postgres(server.wish));
            wanted.files.insert(name, server.files);
        }
        for (local, function) in manifest.function {
            wanted.wishes.insert(name(Kind::Function, local), Wish::Function(function.wish));
        }
        for (local, wish) in manifest.transfer {
            wanted.wishes.insert(name(Kind::Transfer, local), Wish::Transfer(wish));
        }
        Ok(wanted)
    }

    /// Reads a body of which only what it names counts: components that are there, and fields of theirs. A field that
    /// is `null` goes back to its default.
    pub(crate) fn amendment(body: &Value, stead: &Stead) -> Result<Self, Problem> {
        if body.get("app").is_some() {
            let detail = "what a stead is an installation of is not changed by an amendment; leave it out";
            return Err(Problem::fields(vec![("/app".into(), detail.into())]));
        }
        let mut wanted = Self::read(Some(body), &stead.app)?;
        let mut named = BTreeMap::new();
        for name in wanted.wishes.keys() {
            let Some(there) = stead.components.iter().find(|component| component.name == *name) else {
                return Err(Problem::no_component(&stead.name, name));
            };
            let fields = &body[name.kind.as_str()][name.local.as_str()];
            let fields = fields.as_object().into_iter().flat_map(|fields| fields.keys().cloned());
            named.insert(there.name.clone(), fields.collect());
        }
        wanted.named = Some(named);
        Ok(wanted)
    }

    /// The specs that shall be, given those in force and what is to be had.
    pub(crate) fn decide(
        &self,
        current: &BTreeMap<ComponentName, Spec>,
        offer: &Offer,
    ) -> Result<BTreeMap<ComponentName, Spec>, (ComponentName, Refused)> {
        let spec = |(name, wish): (&ComponentName, &Wish)| {
            let named = self.named.as_ref().and_then(|named| named.get(name));
            let named = named.map(|named| named.iter().map(String::as_str).collect());
            match wish.resolve(named.as_ref(), current.get(name), offer) {
                Ok(spec) => Ok((name.clone(), spec)),
                Err(refused) => Err((name.clone(), refused)),
            }
        };
        let asked = self.wishes.iter().map(spec).collect::<Result<BTreeMap<_, _>, _>>()?;
        if self.named.is_none() {
            return Ok(asked);
        }
        let mut all = current.clone();
        all.extend(asked);
        Ok(all)
    }
}

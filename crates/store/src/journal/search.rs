//! Reading the journal, of any size, in a bounded time.
//!
//! Lines are ordered by `(at, id)`, and every index of the journal ends with these two: whichever of them *leads*, a
//! page is a piece of it, wherever the page begins and however long the tenant has been silent. Two things would
//! make a search slow all the same: a filter that no index knows (free text, a component), and two filters of which
//! each is common and both together are rare. So a search looks at no more than [`LOOK`] lines of the index that
//! leads, and where it stopped is the cursor for going on: the answer says how far it looked, not that there is
//! nothing. Which index leads is not guessed from statistics: each is asked where its [`LOOK`]th line is, and the
//! one that reaches farthest leads.
//!
//! The planner must not guess either. Asked for `tenant_id = $1 … order by at`, it takes the index of all tenants for
//! one that has half of all lines (seen), and reads on and on where that one has been silent since; asked for
//! `actor = $2`, it may walk the tenant's. So whose lines they are is said as a range of whole keys,
//! `(tenant_id, actor, at, id)` from here to there, in the order of the whole key: one index alone has that. And what
//! would do without it, by sorting, is forbidden in the sessions that search ([`SETTINGS`]): a plan that was kept for
//! any values once sorted half a tenant, 22 seconds instead of 8 ms.
//!
//! These are the only queries of the store that are put together while it runs; `tests/it/search.rs` runs each
//! combination of parts and holds the answer against a plain filter.

use component::{Category, OperationId, TenantId};
use jiff::Timestamp;
use sqlx::{FromRow, Postgres, QueryBuilder};

use super::{Line, Outcome, Row};
use crate::{Error, Store};

/// Most lines that a search reads for one page: a fifth of a second's worth, on a server with 16 MiB of shared buffers
/// and ten million lines (`script/bench records`).
pub const LOOK: i64 = 10_000;

/// Settings of the sessions that search.
pub(crate) const SETTINGS: [(&str, &str); 7] = [
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_incremental_sort", "off"),
    ("enable_sort", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    // What is forbidden counts as very dear where it cannot be done without, and so as worth compiling.
    ("jit", "off"),
    ("statement_timeout", "30s"),
];

/// Where a line stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it was written.
    pub at: Timestamp,
    /// Which of those of that moment.
    pub id: i64,
}

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only of this stead.
    pub stead: Option<String>,
    /// Only of this component.
    pub component: Option<String>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only this action: `component.edited`.
    pub action: Option<String>,
    /// Only of this category.
    pub category: Option<Category>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only of this operation.
    pub operation: Option<OperationId>,
    /// Only with all of these words in action, actor, stead, component or reason, in any case of letters.
    pub words: Vec<String>,
    /// Only lines of this moment or later.
    pub since: Option<Timestamp>,
    /// Only lines before this moment.
    pub until: Option<Timestamp>,
}

/// Which part of them.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Only lines beyond this one.
    pub from: Option<Position>,
    /// Which way is beyond.
    pub way: Way,
    /// At most so many.
    pub limit: usize,
}

impl Part {
    /// The newest.
    #[must_use]
    pub fn newest(limit: usize) -> Self {
        Self { from: None, way: Way::Older, limit }
    }
}

/// A direction in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Back in time.
    Older,
    /// Towards now.
    Newer,
}

impl Way {
    fn order(self) -> &'static str {
        match self {
            Self::Older => "desc",
            Self::Newer => "asc",
        }
    }

    /// The one of two that is reached last.
    fn farther(self, one: Position, other: Position) -> Position {
        match self {
            Self::Older => one.min(other),
            Self::Newer => one.max(other),
        }
    }
}

/// Before any line, after any line.
const FIRST: Position = Position { at: Timestamp::UNIX_EPOCH, id: i64::MIN };
const LAST: Position = Position { at: Timestamp::MAX, id: i64::MAX };

impl Position {
    /// The first place after this one.
    fn after(self) -> Self {
        Self { id: self.id.saturating_add(1), ..self }
    }
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The lines, newest first.
    pub lines: Vec<Line>,
    /// Beyond which there are, or may be, more: in the direction that was asked for.
    pub next: Option<Position>,
    /// Up to where the search looked, where that is all it did: there may be lines beyond that it did not see.
    pub looked_to: Option<Timestamp>,
}

/// The index that leads: what it knows is asked of it, the rest of each line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lead {
    Time,
    Tenant,
    Stead,
    Actor,
    Actions(Vec<String>),
    Refused,
    Operation,
}

impl Store {
    /// A part of the lines, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn history(&self, filter: &Filter, part: Part) -> Result<Found, Error> {
        let Some(actions) = self.actions(filter).await? else { return Ok(Found::default()) };
        let mut leads = leads(filter, actions);
        let sole = leads.len() == 1;
        let mut search = Search { filter, part, lead: Lead::Time, floor: None };
        let mut best: Option<(Lead, Position)> = None;
        if sole && search.with(leads[0].clone()).rest_is_empty() {
            search.lead = leads.remove(0);
        } else {
            for lead in leads {
                let Some(floor) = self.floor(&search.with(lead.clone())).await? else {
                    // It ends before the limit does: looking at all of it is no more than was allowed.
                    best = None;
                    search.lead = lead;
                    break;
                };
                let reaches = best.as_ref().map_or(floor, |(_, known)| part.way.farther(*known, floor));
                if best.as_ref().is_none_or(|(_, known)| *known != reaches) {
                    best = Some((lead, floor));
                }
            }
            if let Some((lead, floor)) = best {
                (search.lead, search.floor) = (lead, Some(floor));
            }
        }
        let rows: Vec<Row> = search.page().build_query_as().fetch_all(&self.searching).await?;
        Ok(search.found(rows))
    }

    /// One line, by its number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn line(&self, tenant: TenantId, id: i64) -> Result<Option<Line>, Error> {
        let row = sqlx::query_as!(
            Row,
            r#"select j.id, j.at as "at: jiff_sqlx::Timestamp", tenant, stead, component, actor, source, action,
                      outcome, reason, operation_id, payload as "payload?", payload_hash
               from journal j left join journal_payloads p on p.journal_id = j.id
               where j.id = $1 and tenant_id = $2"#,
            id,
            tenant.0,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(Line::from))
    }

    /// The actions that a filter of a tenant comes down to (none: any); `None` where no line can match.
    async fn actions(&self, filter: &Filter) -> Result<Option<Vec<String>>, Error> {
        let wanted = |action: &str| filter.category.is_none_or(|category| Category::of(action) == category);
        match (&filter.action, filter.tenant) {
            (Some(action), _) => Ok(wanted(action).then(|| vec![action.clone()])),
            (None, Some(tenant)) if filter.category.is_some() => {
                let mut known = self.actions_of(tenant).await?;
                known.retain(|action| wanted(action));
                Ok((!known.is_empty()).then_some(known))
            }
            _ => Ok(Some(Vec::new())),
        }
    }

    /// Every action on record of a tenant. The index is asked for the next after each: a lookup an action.
    async fn actions_of(&self, tenant: TenantId) -> Result<Vec<String>, Error> {
        Ok(sqlx::query_scalar!(
            r#"with recursive known as (
                   (select action from journal where tenant_id = $1 order by action limit 1)
                   union all
                   select (select action from journal where tenant_id = $1 and action > k.action
                           order by action limit 1)
                   from known k where k.action is not null
               )
               select action as "action!" from known where action is not null"#,
            tenant.0,
        )
        .fetch_all(&self.searching)
        .await?)
    }

    /// Where the last line stands that a search may look at; none where it may look at all.
    async fn floor(&self, search: &Search<'_>) -> Result<Option<Position>, Error> {
        let found: Option<At> = search.probe().build_query_as().fetch_optional(&self.searching).await?;
        Ok(found.map(|found| Position { at: found.at.to_jiff(), id: found.id }))
    }
}

/// The indexes that could lead, that of everything last and only for want of another.
fn leads(filter: &Filter, actions: Vec<String>) -> Vec<Lead> {
    if filter.operation.is_some() {
        return vec![Lead::Operation];
    }
    if filter.tenant.is_none() {
        return vec![Lead::Time];
    }
    let known = [
        filter.actor.is_some().then_some(Lead::Actor),
        (!actions.is_empty()).then_some(Lead::Actions(actions)),
        filter.stead.is_some().then_some(Lead::Stead),
        (filter.outcome == Some(Outcome::Refused)).then_some(Lead::Refused),
    ];
    let known: Vec<_> = known.into_iter().flatten().collect();
    if known.is_empty() { vec![Lead::Tenant] } else { known }
}

#[derive(FromRow)]
struct At {
    at: jiff_sqlx::Timestamp,
    id: i64,
}

/// One search, and the texts of its queries.
#[derive(Clone)]
struct Search<'a> {
    filter: &'a Filter,
    part: Part,
    lead: Lead,
    floor: Option<Position>,
}

type Sql = QueryBuilder<Postgres>;

/// Columns of a line, without its payload.
const COLUMNS: &str = "id, at, tenant_id, tenant, stead, component, actor, source, action, outcome, reason, \
                       operation_id, payload_hash";

impl<'a> Search<'a> {
    fn with(&self, lead: Lead) -> Self {
        Self { lead, ..self.clone() }
    }

    /// The page, and one line more, which tells whether there is another.
    fn page(&self) -> Sql {
        let (key, way) = (self.order(), self.part.way.order());
        let limit = i64::try_from(self.part.limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut sql = Sql::new("select j.*, p.payload from (");
        let several = self.several();
        if let Some(actions) = several {
            sql.push("select l.* from unnest(").push_bind(actions.to_vec());
            sql.push("::text[]) as wanted (name) cross join lateral (");
        }
        if self.rest_is_empty() {
            sql.push(format_args!("select {COLUMNS} from journal j where "));
            self.led(&mut sql);
        } else {
            // The limit inside keeps what the index does not know out of the choice of an index. It is twice what may
            // be looked at, for lines that are written meanwhile.
            sql.push(format_args!("select * from (select {COLUMNS} from journal j where "));
            self.led(&mut sql);
            sql.push(format_args!(" order by {key} limit ")).push_bind(2 * LOOK);
            sql.push(") j where true");
            self.rest(&mut sql);
        }
        sql.push(format_args!(" order by {key} limit ")).push_bind(limit);
        if several.is_some() {
            sql.push(format_args!(") l order by at {way}, id {way} limit ")).push_bind(limit);
        }
        sql.push(") j left join journal_payloads p on p.journal_id = j.id order by j.at desc, j.id desc");
        sql
    }

    /// Where the last line stands that may be looked at.
    fn probe(&self) -> Sql {
        let (key, way) = (self.order(), self.part.way.order());
        let Some(actions) = self.several() else {
            let mut sql = Sql::new("select at, id from journal j where ");
            self.led(&mut sql);
            sql.push(format_args!(" order by {key} offset ")).push_bind(LOOK - 1);
            sql.push(" limit 1");
            return sql;
        };
        // Each action has its share, and the first that is used up ends the look.
        let share = LOOK / i64::try_from(actions.len()).unwrap_or(LOOK).clamp(1, LOOK);
        let mut sql = Sql::new("select l.at, l.id from unnest(");
        sql.push_bind(actions.to_vec()).push("::text[]) as wanted (name) cross join lateral (");
        sql.push("select at, id from journal j where ");
        self.led(&mut sql);
        sql.push(format_args!(" order by {key} offset ")).push_bind(share - 1);
        sql.push(format_args!(" limit 1) l order by at {way}, id {way} limit 1"));
        sql
    }

    /// The actions that lead, where they are several.
    fn several(&self) -> Option<&[String]> {
        match &self.lead {
            Lead::Actions(actions) if actions.len() > 1 => Some(actions),
            _ => None,
        }
    }

    /// What stands before `at` and `id` in the index that leads.
    fn key(&self) -> &'static [&'static str] {
        match &self.lead {
            Lead::Time => &[],
            Lead::Operation => &["operation_id"],
            Lead::Tenant | Lead::Refused => &["tenant_id"],
            Lead::Stead => &["tenant_id", "stead"],
            Lead::Actor => &["tenant_id", "actor"],
            Lead::Actions(_) => &["tenant_id", "action"],
        }
    }

    /// The order of the index that leads.
    fn order(&self) -> String {
        let way = self.part.way.order();
        let columns = self.key().iter().chain(&["at", "id"]);
        columns.map(|column| format!("{column} {way}")).collect::<Vec<_>>().join(", ")
    }

    /// What the index that leads knows: whose, and when.
    fn led(&self, sql: &mut Sql) {
        match self.lead {
            Lead::Refused => sql.push("outcome = 'refused' and "),
            // What the index is of, which the planner does not see in a range.
            Lead::Operation => sql.push("operation_id is not null and "),
            _ => &mut *sql,
        };
        let (from, to) = self.bounds();
        self.bound(sql, ">=", from);
        sql.push(" and ");
        self.bound(sql, "<", to);
    }

    /// The first place that is in, and the first after it that is not.
    fn bounds(&self) -> (Position, Position) {
        let filter = self.filter;
        let moment = |at: Timestamp| Position { at, id: i64::MIN };
        let (mut from, mut to) = (filter.since.map_or(FIRST, moment), filter.until.map_or(LAST, moment));
        match self.part.way {
            Way::Older => {
                to = to.min(self.part.from.unwrap_or(LAST));
                from = from.max(self.floor.unwrap_or(FIRST));
            }
            Way::Newer => {
                from = from.max(self.part.from.map_or(FIRST, Position::after));
                to = to.min(self.floor.map_or(LAST, Position::after));
            }
        }
        (from, to)
    }

    fn bound(&self, sql: &mut Sql, compared: &str, Position { at, id }: Position) {
        let filter = self.filter;
        let columns: String = self.key().iter().map(|column| format!("{column}, ")).collect();
        sql.push(format_args!("({columns}at, id) {compared} ("));
        for column in self.key() {
            match (*column, &self.lead) {
                ("tenant_id", _) => sql.push_bind(filter.tenant.map(|id| id.0)),
                ("operation_id", _) => sql.push_bind(filter.operation.map(|id| id.0)),
                ("stead", _) => sql.push_bind(filter.stead.clone()),
                ("actor", _) => sql.push_bind(filter.actor.clone()),
                (_, Lead::Actions(actions)) if actions.len() == 1 => sql.push_bind(actions.first().cloned()),
                _ => sql.push("wanted.name"),
            };
            sql.push(", ");
        }
        sql.push_bind(jiff_sqlx::Timestamp::from(at)).push(", ").push_bind(id).push(")");
    }

    /// What it does not know.
    fn rest(&self, sql: &mut Sql) -> bool {
        let filter = self.filter;
        let before = sql.sql().as_str().len();
        if let Some(tenant) = filter.tenant.filter(|_| self.lead == Lead::Operation) {
            sql.push(" and tenant_id = ").push_bind(tenant.0);
        }
        let equal = [
            ("stead", &filter.stead, self.lead == Lead::Stead),
            ("component", &filter.component, false),
            ("actor", &filter.actor, self.lead == Lead::Actor),
            ("action", &filter.action, matches!(self.lead, Lead::Actions(_))),
        ];
        for (column, value, led) in equal {
            if let Some(value) = value.as_ref().filter(|_| !led) {
                sql.push(format_args!(" and {column} = ")).push_bind(value.clone());
            }
        }
        let category = filter.category.filter(|_| filter.action.is_none());
        if let Some(category) = category.filter(|_| !matches!(self.lead, Lead::Actions(_))) {
            let (words, has) = category.first_words();
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            sql.push(if has { " and " } else { " and not " });
            sql.push("split_part(action, '.', 1) = any(").push_bind(words).push("::text[])");
        }
        if let Some(outcome) = filter.outcome.filter(|_| self.lead != Lead::Refused) {
            sql.push(" and outcome = ").push_bind(outcome.as_str());
        }
        if !filter.words.is_empty() {
            let patterns: Vec<String> = filter.words.iter().map(|word| crate::containing(word)).collect();
            sql.push(" and concat_ws(' ', action, actor, stead, component, reason) ilike all(");
            sql.push_bind(patterns).push("::text[])");
        }
        sql.sql().as_str().len() == before
    }

    fn rest_is_empty(&self) -> bool {
        self.rest(&mut Sql::new(""))
    }

    /// Makes of the rows, of which there may be one too many, what was found.
    fn found(&self, rows: Vec<Row>) -> Found {
        let mut lines: Vec<Line> = rows.into_iter().map(Line::from).collect();
        if lines.len() > self.part.limit {
            match self.part.way {
                Way::Older => lines.truncate(self.part.limit),
                Way::Newer => drop(lines.drain(..lines.len() - self.part.limit)),
            }
            let last = match self.part.way {
                Way::Older => lines.last(),
                Way::Newer => lines.first(),
            };
            let next = last.map(Line::position);
            return Found { lines, next, looked_to: None };
        }
        Found { lines, next: self.floor, looked_to: self.floor.map(|floor| floor.at) }
    }
}

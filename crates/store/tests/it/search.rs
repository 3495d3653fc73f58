//! Searches of the journal: each combination of parts, held against a plain filter over all lines.

use component::{Category, OperationId, TenantId};
use store::journal::search::{Filter, LOOK, Part, Position, Way};
use store::journal::{Entry, Line, Outcome};

use crate::rig::{Rig, actor};

const ACTIONS: [&str; 5] =
    ["component.edited", "server.asleep", "server.woken", "backup.drilled", "token.created"];

/// Writes sixty lines of two tenants, of which each attribute has a rhythm of its own.
async fn written(rig: &Rig) -> (TenantId, OperationId) {
    let tenants = [TenantId::random(), TenantId::random()];
    let operation = OperationId::random();
    for n in 0..60_usize {
        let mut who = actor();
        if n % 3 == 0 {
            who.name = "bob".into();
        }
        let outcome = [Outcome::Done, Outcome::Noted, Outcome::Refused, Outcome::Done][n % 4];
        let entry = Entry {
            tenant: Some((tenants[usize::from(n % 7 == 0)], "acme".into())),
            stead: (n % 5 > 0).then(|| ["flights", "shop"][n % 2].into()),
            component: (n % 5 > 1).then(|| ["postgres.main", "postgres.other"][n / 2 % 2].into()),
            reason: (n % 4 == 2).then(|| format!("100% of_it\\ failed, ticket {n}")),
            operation: (n % 11 == 0).then_some(operation),
            ..Entry::new(&who, ACTIONS[n % 5], outcome)
        };
        rig.store.journal(&entry).await.unwrap();
    }
    (tenants[0], operation)
}

/// What a filter is to let through, decided line by line.
fn lets_through(filter: &Filter, tenants: &[i64], line: &Line) -> bool {
    let is = |wanted: &Option<String>, has: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
    };
    let text = [
        Some(line.action.as_str()),
        Some(line.actor.as_str()),
        line.stead.as_deref(),
        line.component.as_deref(),
        line.reason.as_deref(),
    ];
    let text = text.into_iter().flatten().collect::<Vec<_>>().join(" ").to_lowercase();
    filter.tenant.is_none_or(|_| tenants.contains(&line.id))
        && is(&filter.stead, line.stead.as_deref())
        && is(&filter.component, line.component.as_deref())
        && is(&filter.actor, Some(&line.actor))
        && is(&filter.action, Some(&line.action))
        && filter.category.is_none_or(|category| Category::of(&line.action) == category)
        && filter.outcome.is_none_or(|outcome| line.outcome == outcome.as_str())
        && filter.operation.is_none_or(|operation| line.operation == Some(operation))
        && filter.since.is_none_or(|since| line.at >= since)
        && filter.until.is_none_or(|until| line.at < until)
        && filter.words.iter().all(|word| text.contains(&word.to_lowercase()))
}

/// Everything a filter finds, page by page, in the order of the pages.
async fn all(rig: &Rig, filter: &Filter, way: Way, from: Option<Position>, limit: usize) -> Vec<i64> {
    let (mut found, mut part) = (Vec::new(), Part { from, way, limit });
    loop {
        let page = rig.store.history(filter, part).await.unwrap();
        assert!(page.lines.len() <= limit && page.looked_to.is_none());
        assert!(page.lines.is_sorted_by_key(|line| std::cmp::Reverse(line.position())), "newest first");
        let ids = page.lines.iter().map(|line| line.id);
        match way {
            Way::Older => found.extend(ids),
            Way::Newer => found.extend(ids.rev()),
        }
        match page.next {
            Some(next) => part.from = Some(next),
            None => return found,
        }
    }
}

#[tokio::test]
async fn every_combination_finds_what_a_plain_filter_does() {
    let rig = Rig::start().await;
    let (tenant, operation) = written(&rig).await;
    let everything = rig.store.history(&Filter::default(), Part::newest(500)).await.unwrap().lines;
    assert_eq!(everything.len(), 60);
    let of_tenant = Filter { tenant: Some(tenant), ..Filter::default() };
    let own: Vec<i64> = all(&rig, &of_tenant, Way::Older, None, 500).await;
    assert_eq!(own.len(), 51);
    let (since, until) = (everything[45].at, everything[10].at);
    let mut tried = 0;
    // A bit says whether a part of the filter is there.
    for bits in 0..512_u32 {
        let has = |bit: u32| bits & (1 << bit) != 0;
        for category in [None, Some(Category::Engine), Some(Category::Change), Some(Category::SignIn)] {
            let text = |bit: u32, text: &str| has(bit).then(|| text.to_owned());
            let filter = Filter {
                tenant: has(0).then_some(tenant),
                stead: text(1, "shop"),
                component: text(2, "postgres.main"),
                actor: text(3, "ann"),
                action: text(4, "server.woken"),
                category,
                outcome: has(5).then_some(if has(1) { Outcome::Refused } else { Outcome::Done }),
                operation: has(6).then_some(operation),
                words: if has(7) { vec!["ANN".into(), "er".into()] } else { Vec::new() },
                since: has(8).then_some(since),
                until: has(8).then_some(until),
            };
            let expected: Vec<i64> = everything
                .iter()
                .filter(|line| lets_through(&filter, &own, line))
                .map(|line| line.id)
                .collect();
            assert_eq!(all(&rig, &filter, Way::Older, None, 500).await, expected, "{filter:?}");
            tried += usize::from(!expected.is_empty());
        }
    }
    assert!(tried > 150, "{tried} filters found something");
}

#[tokio::test]
async fn pages_hold_every_line_once_both_ways() {
    let rig = Rig::start().await;
    let (tenant, _) = written(&rig).await;
    let of = |category, actor: Option<&str>| Filter {
        tenant: Some(tenant),
        category,
        actor: actor.map(str::to_owned),
        ..Filter::default()
    };
    for filter in [
        Filter::default(),
        of(None, None),
        of(Some(Category::Engine), None),
        of(Some(Category::Engine), Some("ann")),
    ] {
        let whole = all(&rig, &filter, Way::Older, None, 500).await;
        assert!(whole.len() > 10);
        for limit in [1, 7, whole.len() - 1, whole.len()] {
            assert_eq!(all(&rig, &filter, Way::Older, None, limit).await, whole, "{limit}");
            let mut newer = all(&rig, &filter, Way::Newer, None, limit).await;
            newer.reverse();
            assert_eq!(newer, whole, "{limit}");
        }
        let middle = rig.store.line(tenant, whole[5]).await.unwrap();
        let Some(middle) = middle else { continue };
        let beyond = |way| all(&rig, &filter, way, Some(middle.position()), 4);
        assert_eq!(beyond(Way::Older).await, whole[6..]);
        let mut newer = beyond(Way::Newer).await;
        newer.reverse();
        assert_eq!(newer, whole[..5]);
    }
}

#[tokio::test]
async fn signs_of_patterns_are_taken_as_written() {
    let rig = Rig::start().await;
    let (tenant, _) = written(&rig).await;
    let found = async |words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let filter = Filter { tenant: Some(tenant), words, ..Filter::default() };
        all(&rig, &filter, Way::Older, None, 500).await.len()
    };
    let failed = found(&["failed"]).await;
    assert!(failed > 5);
    for words in [&["100% of"][..], &["of_it"], &["it\\ F"], &["FAILED", "100%"]] {
        assert_eq!(found(words).await, failed, "{words:?}");
    }
    for words in [&["100_"][..], &["f%d"], &["it\\\\"], &["failed", "nothing"], &["'; drop table journal"]] {
        assert_eq!(found(words).await, 0, "{words:?}");
    }
}

#[tokio::test]
async fn a_line_is_found_by_its_number_in_its_tenant_alone() {
    let rig = Rig::start().await;
    let (tenant, _) = written(&rig).await;
    let filter = Filter { tenant: Some(tenant), ..Filter::default() };
    let line = rig.store.history(&filter, Part::newest(1)).await.unwrap().lines.remove(0);
    assert_eq!(rig.store.line(tenant, line.id).await.unwrap().as_ref(), Some(&line));
    assert_eq!(rig.store.line(TenantId::random(), line.id).await.unwrap(), None);
    assert_eq!(rig.store.line(tenant, -1).await.unwrap(), None);
}

/// A journal larger than what a search looks at: the answer says how far it looked, and going on from there finds
/// each line once.
#[tokio::test]
async fn a_search_says_how_far_it_looked() {
    let rig = Rig::start().await;
    let tenant = TenantId::random();
    let lines = LOOK * 2 + 500;
    // Both words of the filter are common, and both together are on the oldest line alone.
    let sql = format!(
        "insert into journal (at, tenant_id, tenant, actor, source, action, outcome, salt, payload_hash)
         select now() - make_interval(secs => n), '{}', 'acme', case when n % 2 = 0 then 'ann' else 'bob' end, 'test',
                case when n % 2 = 1 or n = {lines} then 'component.edited' else 'component.created' end, 'done', '', ''
         from generate_series(1, {lines}) n",
        tenant.0,
    );
    rig.sql(&sql).await.unwrap();
    let both = |actor: Option<&str>, action: Option<&str>, words: &[&str]| Filter {
        tenant: Some(tenant),
        actor: actor.map(str::to_owned),
        action: action.map(str::to_owned),
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Filter::default()
    };
    for filter in [
        both(Some("ann"), Some("component.edited"), &[]),
        both(Some("ann"), None, &["edited"]),
        both(None, None, &["edited", "ann"]),
    ] {
        let (mut found, mut part, mut pages) = (Vec::new(), Part::newest(10), 0);
        loop {
            let page = rig.store.history(&filter, part).await.unwrap();
            assert_eq!(page.looked_to, page.next.map(|next| next.at), "{filter:?}");
            found.extend(page.lines.into_iter().map(|line| line.id));
            pages += 1;
            match page.next {
                Some(next) => part.from = Some(next),
                None => break,
            }
        }
        let looks = if filter.words.len() == 2 { 3 } else { 2 };
        assert_eq!((found.len(), pages), (1, looks), "{filter:?}");
        // A search that fills its page has looked at no more than it shows.
        let part = Part { from: None, way: Way::Newer, limit: 1 };
        let page = rig.store.history(&filter, part).await.unwrap();
        assert_eq!(page.lines.iter().map(|line| line.id).collect::<Vec<_>>(), found);
    }
}

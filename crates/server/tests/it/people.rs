//! People: how they get in, how they are kept out, and what of it is on record.

use component::Role;
use identity_of::code_of;
use reqwest::Method;
use serde_json::{Value, json};
use store::journal::Actor;

use crate::browser::{Browser, Shown};
use crate::rig::Rig;

const PASSWORD: &str = "correct horse battery";

fn actor() -> Actor {
    Actor { name: "test".into(), source: "test".into() }
}

/// The path of an invitation's link.
async fn invited(rig: &Rig, name: &str, tenant: Option<&str>, role: Role, once: bool) -> String {
    use secrecy::ExposeSecret;
    let tenant = match tenant {
        Some(tenant) => Some(rig.store.put_tenant(&actor(), &tenant.parse().unwrap(), None).await.unwrap()),
        None => None,
    };
    let tenant = tenant.as_ref().map(|tenant| (tenant.id, &tenant.name));
    let (_, secret) = rig.store.invite(&actor(), name, tenant, role, once).await.unwrap();
    format!("/invitations/{}", secret.expose_secret())
}

/// Somebody who is in, by a link that signs in once.
pub(crate) async fn signed_in(rig: &Rig, name: &str, tenant: Option<&str>, role: Role) -> Browser {
    let link = invited(rig, name, tenant, role, true).await;
    let mut browser = Browser::of(rig);
    browser.post(&link, &[]).await.is(200);
    browser
}

/// Somebody with a password.
async fn member(rig: &Rig, name: &str, tenant: &str, role: Role) -> Browser {
    let link = invited(rig, name, Some(tenant), role, false).await;
    let mut browser = Browser::of(rig);
    browser.post(&link, &[("password", PASSWORD), ("again", PASSWORD)]).await.is(200);
    browser
}

async fn sign_in(browser: &mut Browser, name: &str, password: &str) -> Shown {
    browser.post("/sign-in", &[("name", name), ("password", password), ("to", "/account")]).await
}

fn actions(history: &[Value]) -> Vec<(&str, &str)> {
    history.iter().map(|line| (line["action"].as_str().unwrap(), line["actor"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn an_invitation_makes_an_account_once() {
    let rig = Rig::start().await;
    let link = invited(&rig, "ann@acme.example", Some("acme"), Role::Developer, false).await;
    let mut ann = Browser::of(&rig);
    // Looking at it uses nothing up.
    for _ in 0..2 {
        ann.get(&link).await.is(200).says("ann@acme.example").says("as developer");
    }
    for (password, again, wrong) in [
        ("short", "short", "at least 12"),
        (PASSWORD, "another horse battery", "differ"),
        ("ann ann ann ann", "ann ann ann ann", "too easy"),
    ] {
        ann.post(&link, &[("password", password), ("again", again)]).await.is(422).says(wrong);
    }
    let shown = ann.post(&link, &[("password", PASSWORD), ("again", PASSWORD)]).await.is(200);
    assert_eq!(shown.url.path(), "/tenants/acme", "the only tenant is the first page");
    ann.get("/account").await.is(200).says("ann@acme.example").says("developer");
    ann.post(&link, &[("password", PASSWORD), ("again", PASSWORD)]).await.is(404).says("ask for a new one");
    let mut again = Browser::of(&rig);
    sign_in(&mut again, " Ann@Acme.Example ", PASSWORD).await.is(200).says("Your account");
    let history = rig.history("acme").await;
    let of = actions(&history);
    for line in [
        ("member.invited", "test"),
        ("member.added", "ann@acme.example"),
        ("sign_in.done", "ann@acme.example"),
    ] {
        assert!(of.contains(&line), "{of:?}");
    }
    let text = json!(history).to_string();
    assert!(!text.contains(PASSWORD) && !text.contains(link.rsplit('/').next().unwrap()));

    // A second invitation gives a role, and no session: the link alone does not prove who that is.
    let link = invited(&rig, "ann@acme.example", Some("globex"), Role::Viewer, false).await;
    let mut thief = Browser::of(&rig);
    thief.get(&link).await.is(200).says("keeps its password");
    let shown = thief.post(&link, &[("password", "my own password!"), ("again", "my own password!")]).await;
    assert_eq!(shown.url.path(), "/sign-in");
    sign_in(&mut thief, "ann@acme.example", "my own password!").await.is(401);
    ann.get("/account").await.is(200).says("globex");
}

#[tokio::test]
async fn wrong_passwords_are_counted_and_told_apart_from_nothing() {
    let rig = Rig::start().await;
    member(&rig, "ann@acme.example", "acme", Role::Owner).await;
    let mut guesser = Browser::of(&rig);
    let mut said = Vec::new();
    for name in ["ann@acme.example", "nobody@acme.example"] {
        let shown = sign_in(&mut guesser, name, "a wrong password").await.is(401);
        said.push(shown.text.replace(name, "NAME"));
    }
    assert_eq!(said[0], said[1], "who has an account cannot be told");
    for _ in 1..store::person::PATIENCE {
        sign_in(&mut guesser, "ann@acme.example", "a wrong password").await.is(401);
    }
    // The right one does not help now, and what is tried meanwhile makes it no longer.
    let shown = sign_in(&mut guesser, "ann@acme.example", PASSWORD).await.is(401);
    assert!(shown.text.contains("too many wrong passwords"), "{}", shown.text);
    // Nor who has one by guessing often.
    for _ in 1..store::person::PATIENCE {
        sign_in(&mut guesser, "nobody@acme.example", "a wrong password").await.is(401);
    }
    let nobody = sign_in(&mut guesser, "nobody@acme.example", PASSWORD).await.is(401);
    let bare = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_digit()).collect() };
    assert_eq!(bare(&nobody.text.replace("nobody@", "ann@")), bare(&shown.text));
    assert!(guesser.cookie("stead_session").is_none());
    rig.db.connect().await.batch_execute("update people set locked_until = now()").await.unwrap();
    sign_in(&mut guesser, "ann@acme.example", PASSWORD).await.is(200).says("Your account");
    let refused = rig.history("acme").await;
    let refused =
        actions(&refused).into_iter().filter(|line| *line == ("sign_in.refused", "ann@acme.example"));
    assert_eq!(refused.count(), usize::try_from(store::person::PATIENCE).unwrap());
}

#[tokio::test]
async fn of_many_guesses_at_once_few_are_looked_at() {
    let rig = Rig::start().await;
    member(&rig, "ann@acme.example", "acme", Role::Owner).await;
    let guesses = (0..20).map(|_| async {
        let mut guesser = Browser::of(&rig);
        sign_in(&mut guesser, "ann@acme.example", "a wrong password").await.is(401).text.contains("too many")
    });
    let waited = futures::future::join_all(guesses).await.into_iter().filter(|waited| *waited).count();
    assert_eq!(waited, 20 - usize::try_from(store::person::PATIENCE).unwrap());
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_counts_once() {
    let rig = Rig::start().await;
    let mut ann = member(&rig, "ann@acme.example", "acme", Role::Owner).await;
    let offer = ann.get("/account/second-factor").await.is(200).says("<svg");
    let secret = offer.text.split("type it in: <code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    ann.post("/account/second-factor", &[("code", "000000")]).await.says("not the code of now");
    let (code, next) = (code_of(&secret, 0), code_of(&secret, 30));
    let codes = ann.post("/account/second-factor", &[("code", &code)]).await.is(200).says("Keep these codes");
    let recovery = codes.text.split("<pre>").nth(1).unwrap().lines().next().unwrap().to_owned();

    let mut again = Browser::of(&rig);
    let asked = sign_in(&mut again, "ann@acme.example", PASSWORD).await.is(200);
    assert_eq!(asked.url.path(), "/sign-in/code");
    assert!(again.cookie("stead_session").is_none(), "half is not in");
    again.get("/account").await.says("E-mail address");
    again.post("/sign-in/code", &[("code", &code)]).await.is(401).says("used already");
    again.post("/sign-in/code", &[("code", "abcdef")]).await.is(401);
    let mut watcher = again.copied();
    again.post("/sign-in/code", &[("code", &next)]).await.is(200).says("Your account");
    watcher.post("/sign-in/code", &[("code", &next)]).await.is(401);
    watcher.post("/sign-in/code", &[("code", &recovery)]).await.is(200).says("Your account");
    let mut third = Browser::of(&rig);
    sign_in(&mut third, "ann@acme.example", PASSWORD).await;
    third.post("/sign-in/code", &[("code", &recovery)]).await.is(401);
    // What a browser was lent is of use to it alone, and cannot be made up.
    third.put_cookie("stead_half", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let shown = third.post("/sign-in/code", &[("code", &next)]).await.is(200);
    assert_eq!(shown.url.path(), "/sign-in");

    again.post("/account/second-factor/remove", &[("password", "a wrong password")]).await.says("stays");
    again.post("/account/second-factor/remove", &[("password", PASSWORD)]).await.says("Add a second factor");
    sign_in(&mut Browser::of(&rig), "ann@acme.example", PASSWORD).await.is(200).says("Your account");
}

#[tokio::test]
async fn a_session_changes_its_cookie_and_ends_when_it_was_copied() {
    let rig = Rig::start().await;
    let mut ann = signed_in(&rig, "ann@acme.example", Some("acme"), Role::Viewer).await;
    let mut thief = ann.copied();
    let before = ann.cookie("stead_session").unwrap().to_owned();
    let sql = rig.db.connect().await;
    let later = async |minutes: i32| {
        let text = format!("update sessions set rotated_at = rotated_at - interval '{minutes} minutes'");
        sql.batch_execute(&text).await.unwrap();
    };
    later(16).await;
    // A part of a page does not change it, a page does.
    let state = rig.url("/tenants/acme").parse().unwrap();
    ann.get("/account").await.is(200);
    let after = ann.cookie("stead_session").unwrap().to_owned();
    assert_ne!(before, after);
    assert_eq!(
        thief.step(&Method::GET, &state, None, "same-origin").await.status,
        200,
        "what was on its way"
    );
    later(2).await;
    thief.get("/account").await.is(200).says("E-mail address");
    ann.get("/account").await.is(200).says("E-mail address");
    let history = rig.history("acme").await;
    assert!(actions(&history).contains(&("sign_in.session_copied", "ann@acme.example")), "{history:?}");

    // Unused for long, or after all its days, it ends by itself.
    for change in ["seen_at = now() - interval '13 hours'", "expires_at = now()"] {
        let mut bob = signed_in(&rig, "bob@acme.example", Some("acme"), Role::Viewer).await;
        bob.get("/account").await.is(200).says("Your account");
        sql.batch_execute(&format!("update sessions set {change}")).await.unwrap();
        bob.get("/account").await.is(200).says("E-mail address");
    }
}

#[tokio::test]
async fn sessions_end_by_their_owner_and_with_the_password() {
    let rig = Rig::start().await;
    let mut ann = member(&rig, "ann@acme.example", "acme", Role::Viewer).await;
    let mut phone = Browser::of(&rig);
    sign_in(&mut phone, "ann@acme.example", PASSWORD).await.is(200);
    let bob = member(&rig, "bob@acme.example", "acme", Role::Viewer).await;
    let list = ann.get("/account").await.is(200);
    let ends: Vec<&str> =
        list.text.split("/account/sessions/").skip(1).map(|rest| rest.split('/').next().unwrap()).collect();
    assert_eq!(ends.len(), 1, "the own one cannot be ended here");
    // Somebody else's is not theirs to end.
    bob.copied().post(&format!("/account/sessions/{}/end", ends[0]), &[]).await.is(200);
    phone.get("/account").await.says("Your account");
    ann.post(&format!("/account/sessions/{}/end", ends[0]), &[]).await.is(200);
    phone.get("/account").await.says("E-mail address");

    sign_in(&mut phone, "ann@acme.example", PASSWORD).await.is(200);
    let new = "another horse battery";
    let change = async |browser: &mut Browser, old: &str| {
        browser.post("/account/password", &[("old", old), ("new", new), ("again", new)]).await
    };
    change(&mut ann, "a wrong password").await.says("old password is wrong");
    change(&mut ann, PASSWORD).await.says("every other session of yours has ended");
    phone.get("/account").await.says("E-mail address");
    ann.get("/account").await.says("Your account");
    ann.post("/sign-out", &[]).await.is(200).says("You are signed out");
    assert!(ann.cookie("stead_session").is_none());
    sign_in(&mut ann, "ann@acme.example", PASSWORD).await.is(401);
    sign_in(&mut ann, "ann@acme.example", new).await.is(200);
}

#[tokio::test]
async fn nothing_is_done_that_another_site_sends() {
    let rig = Rig::start().await;
    let mut ann = signed_in(&rig, "ann@acme.example", Some("acme"), Role::Owner).await;
    let members = rig.url("/tenants/acme/members").parse().unwrap();
    let body = || Some("name=eve%40evil.example&role=owner".to_owned());
    for site in ["cross-site", "same-site", "none"] {
        let shown = ann.step(&Method::POST, &members, body(), site).await.is(403);
        assert!(shown.text.contains("was not sent by a page of the console"), "{}", shown.text);
    }
    assert!(
        !actions(&rig.history("acme").await)
            .iter()
            .any(|(action, actor)| { *action == "member.invited" && *actor == "ann@acme.example" })
    );
    // The control: the same from a page of ours is done.
    ann.step(&Method::POST, &members, body(), "same-origin").await.is(200).says("eve@evil.example");
}

#[tokio::test]
async fn one_is_brought_where_one_wanted_to_go_and_nowhere_else() {
    let rig = Rig::start().await;
    member(&rig, "ann@acme.example", "acme", Role::Owner).await;
    let mut ann = Browser::of(&rig);
    let door = ann.get("/tenants/acme/members?x=%22%3E%3Cscript%3E").await.is(200);
    assert_eq!(door.url.path(), "/sign-in");
    assert!(!door.text.contains("<script>"), "{}", door.text);
    for (to, path) in [
        ("/tenants/acme/members", "/tenants/acme/members"),
        ("https://evil.example/", "/tenants/acme"),
        ("//evil.example", "/tenants/acme"),
        ("/\\evil.example", "/tenants/acme"),
    ] {
        let fields = [("name", "ann@acme.example"), ("password", PASSWORD), ("to", to)];
        let shown = ann.post("/sign-in", &fields).await.is(200);
        assert_eq!(shown.url.path(), path, "{to}");
        assert_eq!(shown.url.origin(), rig.url("/").parse::<reqwest::Url>().unwrap().origin());
        let shown = ann.get(&format!("/sign-in?to={to}")).await;
        assert_eq!(shown.url.origin(), rig.url("/").parse::<reqwest::Url>().unwrap().origin());
    }
}

#[tokio::test]
async fn behind_a_prefix_everything_stays_below_it() {
    let rig = Rig::with_people("/stead", None).await;
    let link = invited(&rig, "ann@acme.example", Some("acme"), Role::Owner, true).await;
    for prefix in ["/stead", ""] {
        let mut ann = Browser::of(&rig);
        let door = ann.get(&format!("{prefix}/tenants/acme")).await.is(200);
        assert_eq!(door.url.path(), "/stead/sign-in");
        for part in door.text.split(['"', '\'']).filter(|part| part.starts_with('/')) {
            let ours = part.starts_with("/stead/") || part == "/stead";
            // Where one wanted to go is kept without the prefix.
            assert!(ours || part == "/tenants/acme", "{part}");
        }
    }
    let mut ann = Browser::of(&rig);
    let first = ann.post(&format!("/stead{link}"), &[]).await.is(200);
    assert_eq!(first.url.path(), "/stead/tenants/acme");
    for part in first.text.split('"').filter(|part| part.starts_with('/')) {
        assert!(part.starts_with("/stead/") || part == "/stead", "{part}");
    }
}

async fn by_provider(rig: &Rig, name: &str) -> (Browser, Shown) {
    let mut browser = Browser::of(rig);
    let login = browser.get("/sign-in/provider?to=/account").await.is(200);
    let consent = browser.submit(&login, &[("prompt", "login"), ("login", name), ("password", "any")]).await;
    let shown = if consent.text.contains("consent") {
        browser.submit(&consent, &[("prompt", "consent")]).await
    } else {
        consent
    };
    (browser, shown)
}

#[tokio::test]
async fn the_company_vouches_for_its_people() {
    let rules: &[&str] = &["ops=operator", "stead-{tenant}-{role}={tenant}:{role}"];
    let mut rig = Rig::with_people("", Some(rules)).await;
    for tenant in ["acme", "globex"] {
        rig.store.put_tenant(&actor(), &tenant.parse().unwrap(), None).await.unwrap();
    }
    let mut provider = rig.provider.take().unwrap();
    provider
        .set_groups(json!({"ann": ["stead-acme-owner", "stead-globex-viewer", "stead-none-owner"]}))
        .await;
    let (mut ann, shown) = by_provider(&rig, "ann").await;
    let shown = shown.is(200).says("ann@acme.example").says("your company's").says("globex");
    assert_eq!(shown.url.path(), "/account");
    assert!(!shown.text.contains("none</bdi>"));
    ann.get("/tenants/acme/members").await.is(200).says("by the identity provider");
    ann.get("/tenants/globex").await.is(200);

    // What the company takes back is gone with the next sign-in, also with a key that nobody has seen yet.
    provider.set_groups(json!({"ann": ["stead-acme-viewer"]})).await;
    provider.rotate_keys().await;
    let (mut again, _) = by_provider(&rig, "ann").await;
    again.get("/account").await.is(200).says("viewer");
    again.get("/tenants/globex").await.is(404);
    again.get("/tenants/acme/members").await.is(403);
    // The same person: sessions see it at once.
    ann.get("/tenants/globex").await.is(404);
    let of_acme = rig.history("acme").await;
    assert!(actions(&of_acme).contains(&("member.edited", "identity provider")), "{of_acme:?}");
    assert!(actions(&rig.history("globex").await).contains(&("member.removed", "identity provider")));

    provider.set_groups(json!({"ops": ["ops"]})).await;
    let (mut ops, _) = by_provider(&rig, "ops").await;
    ops.get("/fleet").await.is(200).says("Fleet");
    let (_, refused) = by_provider(&rig, "mallory").await;
    refused.is(403).says("not verified");
    // Signed out here, one may sign out there.
    ann.post("/sign-out", &[]).await.is(200).says("Sign out there too").says("/session/end");
}

#[tokio::test]
async fn what_the_provider_sends_back_belongs_to_one_browser_and_one_sign_in() {
    let rig = Rig::with_people("", Some(&[])).await;
    let mut ann = Browser::of(&rig);
    for query in ["", "?code=x&state=y", "?error=access_denied&error_description=%3Cscript%3E"] {
        ann.get(&format!("/sign-in/back{query}")).await.is(403).says("begin again");
    }
    ann.get("/sign-in/provider").await.is(200);
    let shown = ann.get("/sign-in/back?error=access_denied&error_description=%3Cscript%3E").await.is(403);
    assert!(!shown.text.contains("<script>") && shown.text.contains("access_denied"), "{}", shown.text);
    ann.get("/sign-in/back?code=x&state=made-up").await.is(403).says("another sign-in");
    // Somebody who has no role anywhere is in, and sees nothing.
    let (mut eve, shown) = by_provider(&rig, "eve").await;
    shown.is(200).says("no role in any tenant yet");
    rig.flights().await;
    eve.get("/fleet").await.is(403);
    eve.get("/tenants/acme").await.is(404);
    eve.get("/tenants/acme/steads/flights").await.is(404);
}

mod identity_of {
    use jiff::Timestamp;

    /// The code of some seconds from now.
    pub(super) fn code_of(secret: &str, seconds: u64) -> String {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap();
        let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
        let totp = totp_rs::Builder::new().with_secret(secret).with_account_name("x").build().unwrap();
        totp.generate(now + seconds).to_string()
    }
}

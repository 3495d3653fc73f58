//! Events of data planes are imported exactly once.

use store::journal::{Entry, Outcome};

use crate::rig::{HOST, Rig, actor};

fn lines(count: usize) -> Vec<Entry> {
    vec![Entry::new(&actor(), "server.crashed", Outcome::Noted); count]
}

#[tokio::test]
async fn lines_and_position_go_together() {
    let rig = Rig::start().await;
    let position = |inode| {
        let rig = &rig;
        async move { rig.store.spool_position(HOST, "keeper.jsonl", inode).await.unwrap() }
    };
    let import = |inode, from, to, count| {
        let rig = &rig;
        async move {
            rig.store.import_spool(HOST, "keeper.jsonl", inode, (from, to), &lines(count)).await.unwrap()
        }
    };
    let imported = "select count(*) from journal where action = 'server.crashed'";
    assert_eq!(position(7).await, 0);
    assert!(import(7, 0, 100, 2).await);
    assert_eq!(position(7).await, 100);
    // Somebody else who read the same part comes too late; nor is anything left out.
    assert!(!import(7, 0, 100, 2).await);
    assert!(!import(7, 0, 150, 3).await);
    assert!(!import(7, 120, 150, 1).await);
    assert_eq!(rig.number(imported).await, 2);
    assert!(import(7, 100, 150, 1).await);
    // Another file of the name begins at its beginning.
    assert_eq!(position(8).await, 0);
    assert!(!import(8, 50, 60, 1).await);
    assert!(import(8, 0, 60, 1).await);
    assert_eq!((position(8).await, position(7).await), (60, 0));
    assert_eq!(rig.number(imported).await, 4);
    assert_eq!(rig.store.spool_position("elsewhere", "keeper.jsonl", 8).await.unwrap(), 0);
}

#[tokio::test]
async fn of_many_at_once_one_imports() {
    let rig = Rig::start().await;
    let lines = lines(3);
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, lines) = (rig.store.clone(), lines.clone());
        set.spawn(
            async move { store.import_spool(HOST, "gateway.jsonl", 7, (0, 90), &lines).await.unwrap() },
        );
    }
    let done = set.join_all().await.into_iter().filter(|imported| *imported).count();
    assert_eq!(done, 1);
    assert_eq!(rig.number("select count(*) from journal where action = 'server.crashed'").await, 3);
}

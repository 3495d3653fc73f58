//! In a folder, and in a store that speaks S3 and fails.

use test_support::{Fault, S3};

use super::*;

fn location(s3: &S3) -> Location {
    let options = s3.environment().map(|(name, value)| (name.to_lowercase(), SecretString::from(value)));
    Location::parse("s3://bucket/some/where", options.into()).unwrap()
}

#[tokio::test]
async fn what_was_stored_is_there_whatever_the_network_does() {
    let s3 = S3::start();
    let objects = Objects::open(&location(&s3)).unwrap();
    let bytes = |n: u8| Bytes::from(vec![n; 100_000]);
    for (n, fault) in [Fault::Refused, Fault::AnswerLost, Fault::Broken].into_iter().enumerate() {
        let (n, name) = (u8::try_from(n).unwrap(), format!("archives/a/{n}"));
        s3.fail(fault, 2);
        objects.put(&name, bytes(n)).await.unwrap();
        s3.fail(fault, 2);
        assert_eq!(objects.get(&name).await.unwrap(), Some(bytes(n)), "{name}");
        s3.fail(fault, 2);
        let listed = objects.list("archives/a", None).await.unwrap();
        assert_eq!(listed.len(), usize::from(n) + 1);
        assert_eq!(listed.last().unwrap(), &Listed { name: n.to_string(), bytes: 100_000 });
    }
    assert_eq!(objects.list("archives/a", Some("0")).await.unwrap().len(), 2);
    assert_eq!(objects.folders("archives").await.unwrap(), ["a"]);
    assert_eq!(objects.get("archives/a/9").await.unwrap(), None);
    s3.fail(Fault::Broken, 1);
    objects.delete(vec!["archives/a/0".into(), "archives/a/9".into()]).await.unwrap();
    assert_eq!(objects.get("archives/a/0").await.unwrap(), None);
}

#[tokio::test]
async fn what_the_store_refuses_is_said_and_nothing_is_taken_for_stored() {
    let s3 = S3::start();
    let objects = Objects::open(&location(&s3)).unwrap();
    s3.fail(Fault::Full, 1_000);
    let error = objects.put("archives/a/0", Bytes::from_static(b"x")).await.unwrap_err().to_string();
    assert!(error.contains("507"), "{error}");
    s3.fail(Fault::Full, 0);
    assert_eq!(objects.get("archives/a/0").await.unwrap(), None);
    // One that lies is found out by whoever asks for what it said it has.
    s3.fail(Fault::Lied, 1);
    let lied = objects.put("archives/a/1", Bytes::from_static(b"x")).await;
    assert!(lied.is_err() || objects.get("archives/a/1").await.unwrap().is_none());
    // Wrong credentials are no matter of trying again.
    let mut location = location(&s3);
    location.options.insert("aws_secret_access_key".into(), SecretString::from("other"));
    let error = Objects::open(&location).unwrap().put("archives/a/2", Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
}

#[tokio::test]
async fn a_folder_holds_what_s3_holds() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
    let objects = Objects::open(&location).unwrap();
    objects.put("archives/a/1", Bytes::from_static(b"one")).await.unwrap();
    objects.put("archives/a/b/2", Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(objects.get("archives/a/1").await.unwrap().unwrap(), "one");
    let names: Vec<_> = objects.list("archives/a", None).await.unwrap().into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["1", "b/2"]);
    assert_eq!(objects.folders("archives").await.unwrap(), ["a"]);
    objects.delete(vec!["archives/a/1".into(), "archives/a/1".into()]).await.unwrap();
    assert_eq!(objects.get("archives/a/1").await.unwrap(), None);
    for bad in ["", "relative", "http://x/y", "s3://", "ftp://x"] {
        let said = Location::parse(bad, BTreeMap::new()).unwrap_err();
        assert!(said.contains("give a folder from / on, or s3://bucket/prefix"), "{said}");
    }
}

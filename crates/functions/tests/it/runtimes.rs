//! The three kinds of runtimes, each through a URL and the Invoke API.

use serde_json::json;

use crate::home::Home;

#[test]
fn a_node_function_answers_through_its_url() {
    let home = Home::new();
    let route = home.node(
        "export const handler = async (event, context) => ({ path: event.rawPath, id: context.awsRequestId })",
    );
    let response = home.get(&route, "/hello?x=1");
    assert_eq!(response.status, 200, "{response:?}\n{}", home.log());
    assert_eq!(response.json()["path"], "/hello");
    assert_eq!(response.json()["id"], response.header("x-amzn-requestid").unwrap());
    assert_eq!(home.line("f1", "REPORT")["level"], "info");
}

#[test]
fn a_python_function_answers_the_invoke_api() {
    let home = Home::new();
    home.python("def handler(event, context):\n    return {'got': event, 'name': context.function_name}\n");
    let response = home.invoke("f1", &[], "{\"a\": 1}");
    assert_eq!(response.status, 200, "{response:?}\n{}", home.log());
    assert_eq!(response.json(), json!({ "got": { "a": 1 }, "name": "f1" }));
    assert_eq!(response.header("x-amz-executed-version"), Some("1"));
}

#[test]
fn a_package_may_bring_its_own_program() {
    let home = Home::new();
    let bootstrap = "#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
exec /usr/bin/python3.11 -c '
import os, urllib.request as r
api = \"http://\" + os.environ[\"AWS_LAMBDA_RUNTIME_API\"] + \"/2018-06-01/runtime/invocation/\"
while True:
    got = r.urlopen(api + \"next\")
    id, body = got.headers[\"Lambda-Runtime-Aws-Request-Id\"], got.read()
    r.urlopen(api + id + \"/response\", b\"[\" + body + b\"]\").read()
'
";
    let version = home.version("provided.al2023", "", &[("bootstrap", bootstrap)]);
    home.put(&home.route("f1", version));
    let response = home.invoke("f1", &[], "7");
    assert_eq!((response.status, response.text().as_str()), (200, "[7]"), "{}", home.log());
}

//! Answers that come piece by piece.

use crate::home::Home;
use crate::http::Connection;

const CODE: &str = "
export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  const how = event.rawPath ?? event;
  if (how === '/prelude') {
    stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-mine': 'yes' }, cookies: ['a=1'] });
  } else stream.setContentType('text/plain');
  for (let n = 0; n < 5; n++) { stream.write('part ' + n + '\\n'); await new Promise(done => setTimeout(done, 10)); }
  if (how === '/exit') process.exit(5);
  if (how === '/error') throw new TypeError('in the middle');
  stream.end();
});";

#[test]
fn a_streamed_answer_arrives_with_its_prelude_or_without() {
    let home = Home::new();
    let route = home.node(CODE);
    let parts: String = (0..5).map(|n| format!("part {n}\n")).collect();
    let plain = home.get(&route, "/plain");
    assert_eq!((plain.status, plain.text(), plain.cut_off), (200, parts.clone(), false), "{}", home.log());
    assert_eq!(plain.header("content-type"), Some("text/plain"));
    let dressed = home.get(&route, "/prelude");
    assert_eq!((dressed.status, dressed.text()), (201, parts.clone()));
    assert_eq!((dressed.header("x-mine"), dressed.header("set-cookie")), (Some("yes"), Some("a=1")));
    let broken = home.get(&route, "/error");
    assert!(broken.cut_off, "{broken:?}");
    assert_eq!(home.line("f1", "Error Type: TypeError")["level"], "info");
    // The worker is as good as before.
    assert_eq!(home.get(&route, "/plain").text(), parts);
}

#[test]
fn a_worker_that_is_lost_in_the_middle_cuts_its_answer_off() {
    let home = Home::new();
    let route = home.node(CODE);
    let broken = home.get(&route, "/exit");
    assert!(broken.cut_off && broken.text().starts_with("part 0"), "{broken:?}");
    home.line("f1", "Status: error");
    assert!(!home.get(&route, "/plain").cut_off);
}

#[test]
fn the_invoke_api_streams_in_amazons_messages() {
    let home = Home::new();
    home.node(CODE);
    let target = "POST /2021-11-15/functions/f1/response-streaming-invocations";
    let mut connection = Connection::unix(&home.path.join("functions/invoke.sock"));
    let response = connection.ask(target, &[], b"\"/error\"");
    assert_eq!(response.header("content-type"), Some("application/vnd.amazon.eventstream"));
    let text = response.text();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text:?}"));
    assert!(at("PayloadChunk") < at("part 0") && at("part 4") < at("InvokeComplete"));
    assert!(at("InvokeComplete") < at("TypeError"));
}

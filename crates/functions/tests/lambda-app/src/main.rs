//! A function written with AWS's own crates. `_HANDLER` says which; what it does is said by the event or the path, the
//! same in every language: see the tests in `conformance`.

use std::time::{Duration, SystemTime};

use lambda_http::http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use lambda_http::{Request, RequestExt, Response};
use lambda_runtime::streaming::{Body, Sender, channel};
use lambda_runtime::{Context, Diagnostic, Error, LambdaEvent, StreamResponse, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    match std::env::var("_HANDLER").unwrap_or_default().as_str() {
        "plain" => lambda_runtime::run(service_fn(plain)).await,
        "stream" => lambda_runtime::run(service_fn(stream)).await,
        "http" => lambda_http::run(service_fn(http)).await,
        "http_stream" => lambda_http::run_with_streaming_response(service_fn(http_stream)).await,
        other => Err(format!("there is no handler `{other}`").into()),
    }
}

fn nasty() -> Diagnostic {
    Diagnostic { error_type: "Nasty".to_owned(), error_message: "on purpose".to_owned() }
}

async fn plain(event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let LambdaEvent { payload, context } = event;
    let number = |name: &str| payload[name].as_u64().unwrap_or_default();
    match payload["do"].as_str().unwrap_or_default() {
        "context" => Ok(told(&context)),
        "fail" => Err(nasty()),
        "exit" => std::process::exit(3),
        "print" => {
            println!("{}", payload["text"].as_str().unwrap_or_default());
            Ok(Value::Null)
        }
        "pad" => Ok(json!({ "text": "x".repeat(number("bytes") as usize) })),
        "wait" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            Ok(json!({ "number": number("number") }))
        }
        _ => Ok(json!({ "got": payload })),
    }
}

fn told(context: &Context) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    json!({
        "id": context.request_id,
        "arn": context.invoked_function_arn,
        "function": context.env_config.function_name,
        "version": context.env_config.version,
        "memory": context.env_config.memory,
        "log_group": context.env_config.log_group,
        "log_stream": context.env_config.log_stream,
        "trace": context.xray_trace_id,
        "remaining_ms": i128::from(context.deadline) - i128::try_from(now).unwrap_or_default(),
        "client": context.client_context.as_ref().map(|client| client.custom.clone()),
    })
}

async fn stream(event: LambdaEvent<Value>) -> Result<StreamResponse<Body>, Diagnostic> {
    if event.payload["do"] == "fail" {
        return Err(nasty());
    }
    Ok(StreamResponse::from(pieces(event.payload["do"] == "break")))
}

/// Five pieces, a moment apart; then what breaks off, if it is to.
fn pieces(breaks: bool) -> Body {
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        if send(&mut sender).await.is_ok() && breaks {
            sender.abort();
        }
    });
    body
}

async fn send(sender: &mut Sender) -> Result<(), Error> {
    for piece in 0..5 {
        sender.send_data(format!("piece {piece}\n").into()).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn http(request: Request) -> Result<Response<lambda_http::Body>, Error> {
    let query = request.query_string_parameters();
    let number = |name: &str| query.first(name).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    let cookies = request.headers().get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    let mut response = Response::builder();
    let body = match request.uri().path() {
        "/fail" => return Err("on purpose".into()),
        "/text" => "x".repeat(number("bytes") as usize).into(),
        "/binary" => {
            response = response.header(CONTENT_TYPE, "application/octet-stream");
            lambda_http::Body::Binary((0..=255).collect())
        }
        "/echo" => {
            if let Some(kind) = request.headers().get(CONTENT_TYPE) {
                response = response.header(CONTENT_TYPE, kind);
            }
            request.into_body()
        }
        "/cookies" => {
            response = response.header(SET_COOKIE, "a=1").header(SET_COOKIE, "b=2; Path=/; Secure");
            cookies.into()
        }
        "/wait" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            json!({ "number": number("number") }).to_string().into()
        }
        path => {
            response = response.status(201).header(CONTENT_TYPE, "application/json");
            let context = request.lambda_context();
            json!({
                "method": request.method().as_str(),
                "path": path,
                "x": query.first("x"),
                "id": context.request_id,
            })
            .to_string()
            .into()
        }
    };
    Ok(response.body(body)?)
}

async fn http_stream(request: Request) -> Result<Response<Body>, Error> {
    let response = Response::builder().status(202).header("x-mine", "yes").header(SET_COOKIE, "a=1");
    Ok(response.header(CONTENT_TYPE, "text/plain").body(pieces(request.uri().path() == "/break"))?)
}

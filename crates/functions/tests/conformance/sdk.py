"""AWS's SDK for Python against the Invoke API: sdk.py URL WHOLE STREAMED BROKEN...

WHOLE is a function that does what its event says, every STREAMED one that answers in pieces, BROKEN one that does not
load. Prints `well`."""
import base64, json, sys, threading, time

import boto3, botocore
from botocore.config import Config

url, whole, broken, *streamed = sys.argv[1:]
# Not more tries than one: an error has to be seen.
config = Config(retries={"total_max_attempts": 1}, read_timeout=60, max_pool_connections=20)
client = boto3.client("lambda", endpoint_url=url, region_name="local", aws_access_key_id="a", aws_secret_access_key="b",
                      config=config)


def invoke(event, **more):
    answer = client.invoke(FunctionName=whole, Payload=json.dumps(event), **more)
    return answer, json.loads(answer["Payload"].read() or "null")


def refused(error, call):
    try:
        call()
    except client.exceptions.ClientError as raised:
        assert raised.response["Error"]["Code"] == error, raised.response
        assert raised.response["Error"]["Message"], raised.response
        return raised
    raise AssertionError(f"no {error}")


# An answer.
answer, payload = invoke({"n": 1.5, "s": "ä€😀"})
assert answer["StatusCode"] == 200 and payload == {"got": {"n": 1.5, "s": "ä€😀"}}, (answer, payload)
assert answer["ExecutedVersion"] == "1" and "FunctionError" not in answer, answer
by_arn = client.invoke(FunctionName=f"arn:aws:lambda:local:123456789012:function:{whole}", Qualifier="1", Payload="7")
assert json.load(by_arn["Payload"]) == {"got": 7}

# Context of the client.
custom = base64.b64encode(json.dumps({"custom": {"k": "ü"}}).encode()).decode()
answer, payload = invoke({"do": "context"}, ClientContext=custom)
assert payload["client"] == {"k": "ü"} and payload["id"] == answer["ResponseMetadata"]["RequestId"], payload

# The end of the log.
answer, _ = invoke({"do": "print", "text": "hear, hear"}, LogType="Tail")
log = base64.b64decode(answer["LogResult"]).decode()
assert "hear, hear" in log and "START RequestId: " in log and "REPORT RequestId: " in log, log
assert len(log) <= 4096

# Errors of the function's own, and of its start.
answer, payload = invoke({"do": "fail"})
assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", answer
assert (payload["errorType"], payload["errorMessage"]) == ("Nasty", "on purpose"), payload
answer = client.invoke(FunctionName=broken)
assert answer["FunctionError"] == "Unhandled" and json.load(answer["Payload"])["errorType"], answer

# Errors of the API.
raised = refused("ResourceNotFoundException", lambda: client.invoke(FunctionName="nobody"))
assert isinstance(raised, client.exceptions.ResourceNotFoundException), raised
refused("ResourceNotFoundException", lambda: client.invoke(FunctionName=whole, Qualifier="99"))
refused("InvalidRequestContentException", lambda: client.invoke(FunctionName=whole, Payload=b"{"))
refused("RequestTooLargeException", lambda: invoke({"text": "x" * (6 << 20)}))

# Later, and never.
answer = client.invoke(FunctionName=whole, InvocationType="Event", Payload=b'{"do": "print", "text": "by event"}')
assert answer["StatusCode"] == 202 and answer["Payload"].read() == b"", answer
answer = client.invoke(FunctionName=whole, InvocationType="DryRun")
assert answer["StatusCode"] == 204, answer

# Large ones.
answer, payload = invoke({"text": "x" * 5_000_000})
assert len(payload["got"]["text"]) == 5_000_000 and "FunctionError" not in answer
answer, payload = invoke({"do": "pad", "bytes": 7_000_000})
assert answer["FunctionError"] == "Unhandled" and payload["errorType"] == "Function.ResponseSizeTooLarge", payload

# Many at once, over few connections.
answers = [None] * 20


def ask(number):
    answers[number] = invoke({"do": "wait", "ms": 50, "number": number})[1]


threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert answers == [{"number": number} for number in range(20)], answers

# In pieces.
pieces = "".join(f"piece {number}\n" for number in range(5)).encode()
for function in streamed:
    def stream(event):
        answer = client.invoke_with_response_stream(FunctionName=function, Payload=json.dumps(event))
        assert answer["StatusCode"] == 200 and answer["ExecutedVersion"] == "1", answer
        chunks, first, complete = [], None, None
        for event in answer["EventStream"]:
            if "PayloadChunk" in event:
                first = first or time.monotonic()
                chunks.append(event["PayloadChunk"]["Payload"])
            else:
                complete = event["InvokeComplete"]
        # What `lambda_runtime` answers begins with what it would be over HTTP, as on Lambda.
        return b"".join(chunks).rpartition(b"\0" * 8)[2], complete, first and time.monotonic() - first

    got, complete, lasted = stream({})
    assert got == pieces and not complete.get("ErrorCode"), (function, got, complete)
    assert lasted > 0.3, f"{function}: all pieces came at once, within {lasted} s"
    got, complete, _ = stream({"do": "break"})
    # `lambda_runtime` writes its trailers into the body, so that nobody can know.
    written = got.startswith(pieces + b"Lambda-Runtime-Function-Error-Type: ")
    assert written or got == pieces and complete["ErrorCode"] and complete["ErrorDetails"], (function, got, complete)
    got, complete, _ = stream({"do": "fail"})
    assert complete["ErrorCode"] and complete["ErrorDetails"], (function, got, complete)

# One that does not stream, asked for pieces.
answer = client.invoke_with_response_stream(FunctionName=whole, Payload="1")
events = list(answer["EventStream"])
assert json.loads(events[0]["PayloadChunk"]["Payload"]) == {"got": 1} and "InvokeComplete" in events[-1], events
print("well")

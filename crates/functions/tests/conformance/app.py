"""A function in Python that does what its event says, the same in every language."""
import os, time


class Nasty(Exception):
    pass


def handler(event, context):
    wish = event.get("do") if isinstance(event, dict) else None
    if wish == "context":
        return {"id": context.aws_request_id, "arn": context.invoked_function_arn, "function": context.function_name,
                "version": context.function_version, "memory": int(context.memory_limit_in_mb),
                "log_group": context.log_group_name, "log_stream": context.log_stream_name,
                "trace": os.environ.get("_X_AMZN_TRACE_ID"), "remaining_ms": context.get_remaining_time_in_millis(),
                "client": context.client_context and context.client_context.custom}
    if wish == "fail":
        raise Nasty("on purpose")
    if wish == "exit":
        os._exit(3)
    if wish == "print":
        print(event["text"])
        return None
    if wish == "pad":
        return {"text": "x" * event["bytes"]}
    if wish == "wait":
        time.sleep(event["ms"] / 1000)
        return {"number": event.get("number", 0)}
    return {"got": event}

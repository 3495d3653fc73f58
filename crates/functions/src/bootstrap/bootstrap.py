"""Runs a Lambda function in Python: reads its environment as one line of JSON from standard input, imports the handler,
then asks the runtime API for invocations until the process is ended."""
import datetime, decimal, importlib, json, logging, os, socket, sys, time, traceback, types

request_id = None


class Runtime:
    """The runtime API over one connection. HTTP is spoken by hand, because the other side is known: it answers in order
    and says how long each answer is. Python's own client takes longer for a call than all the rest."""

    def __init__(self, address):
        host, _, port = address.partition(":")
        self.address = (host, int(port))
        self.connect()

    def connect(self):
        self.said = None
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, headers, body=b""):
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nhost: runtime\r\n{lines}\r\n"
        self.socket.sendall(head.encode("latin-1", "replace") + body)
        return self.answer()

    def answer(self):
        """What is said to the one question under way: status, headers, body."""
        said = b""
        while (end := said.find(b"\r\n\r\n")) < 0:
            said += self.receive()
        status, *lines = said[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in [line.split(": ", 1) for line in lines]}
        parts = [said[end + 4:]]
        missing = int(headers.get("content-length", 0)) - len(parts[0])
        while missing > 0:
            parts.append(self.receive())
            missing -= len(parts[-1])
        return int(status[9:12]), headers, b"".join(parts)

    def receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the runtime API has gone")
        return data

    def next(self):
        _, headers, body = self.said or self.ask("GET", "invocation/next", {})
        self.said = None
        return headers, body

    def post(self, path, body, headers):
        """Sends an answer. Where the next invocation is asked for with it, and the answer is taken, it is said to that."""
        headers = {"content-type": "application/json", "content-length": len(body), **headers}
        said = self.ask("POST", path, headers, body)
        if said[0] == 200:
            self.said = said
        elif said[1].get("connection") == "close":
            self.connect()


class Context:
    """What a handler is told of its invocation."""

    def __init__(self, headers):
        env = os.environ
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
        self.function_name = env["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = env["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = env["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = env["AWS_LAMBDA_LOG_STREAM_NAME"]
        self._deadline_ms = int(headers["lambda-runtime-deadline-ms"])
        client = json.loads(headers.get("lambda-runtime-client-context") or "null")
        identity = json.loads(headers.get("lambda-runtime-cognito-identity") or "{}")
        self.client_context = client and types.SimpleNamespace(
            custom=client.get("custom"), env=client.get("env"),
            client=types.SimpleNamespace(**{name: (client.get("client") or {}).get(name) for name in (
                "installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")}))
        self.identity = types.SimpleNamespace(
            cognito_identity_id=identity.get("cognitoIdentityId"),
            cognito_identity_pool_id=identity.get("cognitoIdentityPoolId"))

    def get_remaining_time_in_millis(self):
        return max(self._deadline_ms - int(time.time() * 1000), 0)


class Logs(logging.Handler):
    """Lines with level, time and request, as Lambda's text format has them; or JSON."""

    def __init__(self, as_json):
        super().__init__()
        self.as_json = as_json
        self.setFormatter(logging.Formatter("%(message)s"))

    def format(self, record):
        text = super().format(record)
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        at = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        if self.as_json:
            return json.dumps({"timestamp": at, "level": record.levelname, "message": text, "logger": record.name,
                               "requestId": request_id})
        return f"[{record.levelname}]\t{at}\t{request_id or ''}\t{text}"

    def emit(self, record):
        try:
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()
        except Exception:
            self.handleError(record)


class InitError(Exception):
    def __init__(self, kind, message, trace=()):
        super().__init__(message)
        self.kind, self.trace = kind, list(trace)


def find_handler(name):
    file, dot, function = name.rpartition(".")
    if not dot:
        raise InitError("Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack")
    try:
        module = importlib.import_module(file.replace("/", "."))
    except ImportError as error:
        raise InitError("Runtime.ImportModuleError", f"Unable to import module '{file}': {error}")
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise InitError("Runtime.UserCodeSyntaxError", f"Syntax error in module '{file}': {error}", trace)
    try:
        return getattr(module, function)
    except AttributeError:
        raise InitError("Runtime.HandlerNotFound", f"Handler '{function}' missing on module '{file}'")


def shape_of(error):
    if isinstance(error, InitError):
        return {"errorMessage": str(error), "errorType": error.kind, "requestId": request_id or "", "stackTrace": error.trace}
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    return {"errorMessage": str(error), "errorType": type(error).__name__, "requestId": request_id or "",
            "stackTrace": traceback.format_list(own)}


def to_json(value):
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def report(runtime, path, error, headers={}):
    shape = shape_of(error)
    trace = "".join(shape["stackTrace"])
    sys.stdout.write(f"[ERROR] {shape['errorType']}: {shape['errorMessage']}\r"
                     + ("Traceback (most recent call last):\r" + trace.replace("\n", "\r") if trace else "") + "\n")
    sys.stdout.flush()
    kind = shape["errorType"].encode("ascii", "replace").decode()
    runtime.post(path, json.dumps(shape).encode(), {"lambda-runtime-function-error-type": kind, **headers})


def serve(runtime, handler):
    global request_id
    while True:
        headers, body = runtime.next()
        request_id = headers["lambda-runtime-aws-request-id"]
        nonce = headers.get("lambda-runtime-invocation-id")
        echo = {"stead-then": "next", **({"lambda-runtime-invocation-id": nonce} if nonce else {})}
        if headers.get("lambda-runtime-trace-id"):
            os.environ["_X_AMZN_TRACE_ID"] = headers["lambda-runtime-trace-id"]
        try:
            try:
                event = json.loads(body)
            except ValueError as error:
                raise InitError("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}")
            value = handler(event, Context(headers))
            try:
                answer = json.dumps(value, default=to_json, ensure_ascii=False).encode()
            except (TypeError, ValueError) as error:
                raise InitError("Runtime.MarshalError", f"Unable to marshal response: {error}")
        except Exception as error:
            report(runtime, f"invocation/{request_id}/error", error, echo)
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            runtime.post(f"invocation/{request_id}/response", answer, echo)
        request_id = None


def main():
    # All that can be done before it is known for whom.
    runtime = Runtime(os.environ.get("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"))
    if "AWS_LAMBDA_RUNTIME_API" not in os.environ:
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            return
        os.environ.update(json.loads(line))
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    root = os.environ["LAMBDA_TASK_ROOT"]
    os.chdir(root)
    sys.path[:0] = [root, "/opt/python"]
    sys.path_importer_cache.clear()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="replace")
    logging.getLogger().addHandler(Logs(os.environ.get("AWS_LAMBDA_LOG_FORMAT") == "JSON"))
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL")
    if level:
        logging.getLogger().setLevel({"TRACE": "DEBUG", "FATAL": "CRITICAL"}.get(level, level))
    try:
        handler = find_handler(os.environ["_HANDLER"])
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        report(runtime, "init/error", error)
        sys.exit(1)
    serve(runtime, handler)


main()

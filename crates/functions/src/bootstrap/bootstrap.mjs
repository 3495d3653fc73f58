// Runs a Lambda function in Node.js: reads its environment as one line of JSON from standard input, imports the handler,
// then asks the runtime API for invocations until the process is ended.
import { readSync, closeSync, openSync, existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import { resolve } from 'node:path';
import { Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { format } from 'node:util';
import v8 from 'node:v8';

const streaming = Symbol('streaming');
const PREFIX = ' /2018-06-01/runtime/';
let requestId;

// The runtime API over one connection. HTTP is spoken by hand, because the other side is known: it says nothing unasked,
// and how long each answer is. Node's own client takes longer for a call than all the rest.
class Api {
  constructor(address) {
    const [host, port] = address.split(':');
    this.begin();
    this.socket = net.connect({ host, port: Number(port), noDelay: true });
    this.socket.on('data', (data) => this.take(data));
    this.socket.on('error', (error) => this.break(error));
    this.socket.on('close', () => this.break(new Error('the runtime API has gone')));
  }
  begin() {
    this.headers = undefined;
    this.parts = [];
    this.missing = 0;
  }
  break(error) {
    this.broken = error;
    this.failed?.(error);
  }
  take(data) {
    this.parts.push(data);
    if (this.headers) this.missing -= data.length; else if (!this.takeHead()) return;
    if (this.missing > 0) return;
    const { status, headers, start, parts } = this;
    const whole = parts.length > 1 ? Buffer.concat(parts) : parts[0];
    this.begin();
    this.done({ status, headers, text: () => whole.utf8Slice(start) });
  }
  takeHead() {
    const data = this.parts.length > 1 ? Buffer.concat(this.parts) : this.parts[0];
    this.parts = [data];
    const end = data.indexOf('\r\n\r\n');
    if (end < 0) return false;
    const head = data.latin1Slice(0, end + 2);
    const headers = {};
    for (let at = head.indexOf('\r\n') + 2; at < head.length;) {
      const colon = head.indexOf(':', at), last = head.indexOf('\r\n', at);
      headers[head.slice(at, colon).toLowerCase()] = head.slice(colon + 2, last);
      at = last + 2;
    }
    this.status = Number(head.slice(9, 12));
    this.start = end + 4;
    this.missing = this.start + Number(headers['content-length'] ?? 0) - data.length;
    this.headers = headers;
    return true;
  }
  // The answer to the one question under way.
  answer() {
    return new Promise((done, failed) => {
      if (this.broken) return failed(this.broken);
      this.done = done;
      this.failed = failed;
    });
  }
  head(method, path, headers) {
    let head = `${method}${PREFIX}${path} HTTP/1.1\r\nhost: runtime\r\n`;
    for (const name in headers) head += `${name}: ${headers[name]}\r\n`;
    return head + '\r\n';
  }
  get(path) {
    this.socket.write(this.head('GET', path));
    return this.answer();
  }
  post(path, headers, body) {
    headers['content-type'] = 'application/json';
    headers['content-length'] = Buffer.byteLength(body);
    this.socket.write(this.head('POST', path, headers) + body);
    return this.answer();
  }
}

let api = new Api(process.env.AWS_LAMBDA_RUNTIME_API ?? '127.0.0.1:9001');

function shapeOf(error) {
  if (error instanceof Error || (error && typeof error === 'object' && 'message' in error && 'stack' in error)) {
    return { errorType: error.name ?? 'Error', errorMessage: String(error.message),
      trace: String(error.stack ?? '').split('\n') };
  }
  return { errorType: typeof error, errorMessage: String(error), trace: [] };
}

function named(name, message, cause) {
  const error = new Error(message);
  error.name = name;
  if (cause?.stack) error.stack = `${name}: ${message}\n` + cause.stack;
  return error;
}

async function importHandler() {
  const root = process.env.LAMBDA_TASK_ROOT;
  const [, folder, file, path] = /^((?:.*\/)?)([^./]+)\.(.+)$/.exec(process.env._HANDLER ?? '') ?? [];
  if (!file) throw named('Runtime.MalformedHandlerName', `Bad handler: ${process.env._HANDLER}`);
  if (`${folder}${path}`.includes('..')) {
    throw named('Runtime.MalformedHandlerName', `'${process.env._HANDLER}' is not a valid handler name.`);
  }
  const base = resolve(root, folder + file);
  const found = ['', '.js', '.mjs', '.cjs'].map((end) => base + end).find((name) => existsSync(name) && !name.endsWith('/'));
  let module;
  try {
    if (!found) {
      throw Object.assign(new Error(`Cannot find module '${folder}${file}'`), { code: 'MODULE_NOT_FOUND' });
    }
    module = found.endsWith('.cjs') || found === base ? createRequire(root + '/')(found)
      : await import(pathToFileURL(found).href);
  } catch (error) {
    if (error instanceof SyntaxError) throw named('Runtime.UserCodeSyntaxError', `SyntaxError: ${error.message}`, error);
    if (['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(error?.code)) {
      throw named('Runtime.ImportModuleError', `Error: ${error.message}`, error);
    }
    throw error;
  }
  const walk = (from) => path.split('.').reduce((at, name) => at?.[name], from);
  const handler = walk(module) ?? walk(module.default);
  if (handler === undefined) {
    throw named('Runtime.HandlerNotFound', `${process.env._HANDLER} is undefined or not exported`);
  }
  if (typeof handler !== 'function') {
    throw named('Runtime.HandlerNotFound', `${process.env._HANDLER} is not a function`);
  }
  return handler;
}

// Log lines carry time, request and level, as Lambda's text format has them.
function patchConsole() {
  const levels = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR' };
  const order = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];
  const least = Math.max(0, order.indexOf(process.env.AWS_LAMBDA_LOG_LEVEL ?? 'TRACE'));
  const json = process.env.AWS_LAMBDA_LOG_FORMAT === 'JSON';
  for (const [name, level] of Object.entries(levels)) {
    console[name] = (...args) => {
      if (order.indexOf(level) < least) return;
      const text = name === 'trace' ? new Error(format(...args)).stack : format(...args);
      const timestamp = new Date().toISOString();
      process.stdout.write(json
        ? JSON.stringify({ timestamp, level, requestId, message: text }) + '\n'
        : `${timestamp}\t${requestId ?? 'undefined'}\t${level}\t${text.replaceAll('\n', '\r')}\n`);
    };
  }
}

// What a streaming handler writes into: the request to the runtime API begins with the first byte.
class ResponseStream extends Writable {
  constructor(id, headers) {
    super({ highWaterMark: 64 * 1024 });
    Object.assign(this, { id, headers, type: 'application/octet-stream' });
  }
  setContentType(type) { this.type = type; }
  begin() {
    if (this.accepted) return;
    api.socket.write(api.head('POST', `invocation/${this.id}/response`, { ...this.headers, 'content-type': this.type,
      'lambda-runtime-function-response-mode': 'streaming', 'transfer-encoding': 'chunked',
      trailer: 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body' }));
    this.accepted = api.answer();
  }
  _write(part, encoding, done) {
    this.begin();
    if (part.length === 0) return done();
    api.socket.write(part.length.toString(16) + '\r\n');
    api.socket.write(part, encoding);
    if (api.socket.write('\r\n')) done(); else api.socket.once('drain', () => done());
  }
  _final(done) { this.finish(''); done(); }
  finish(trailers) {
    this.begin();
    if (!this.finished) api.socket.write('0\r\n' + trailers + '\r\n');
    this.finished = true;
  }
  fail(error) {
    const shape = shapeOf(error);
    const body = Buffer.from(JSON.stringify(shape)).toString('base64');
    const kind = shape.errorType.replace(/[^ -~]/g, '?');
    this.finish(`lambda-runtime-function-error-type: ${kind}\r\nlambda-runtime-function-error-body: ${body}\r\n`);
    return this.accepted;
  }
}

globalThis.awslambda = {
  streamifyResponse(handler, options) {
    return Object.assign(handler, { [streaming]: options ?? {} });
  },
  HttpResponseStream: {
    from(stream, prelude) {
      stream.setContentType('application/vnd.awslambda.http-integration-response');
      stream.write(JSON.stringify(prelude) + '\0'.repeat(8));
      return stream;
    },
  },
};

const known = () => {
  const env = process.env;
  return {
    functionName: env.AWS_LAMBDA_FUNCTION_NAME, functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME, logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
  };
};

function contextOf(fixed, headers) {
  const json = (text) => (text ? JSON.parse(text) : undefined);
  const deadline = Number(headers['lambda-runtime-deadline-ms']);
  return {
    callbackWaitsForEmptyEventLoop: true, ...fixed,
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    clientContext: json(headers['lambda-runtime-client-context']),
    identity: json(headers['lambda-runtime-cognito-identity']),
    getRemainingTimeInMillis: () => deadline - Date.now(),
  };
}

// What ends an invocation when nothing is left to do.
let idle;
process.on('beforeExit', () => idle?.());

// The handler's answer: a promise's value, or what a callback was given. A callback's waits until nothing is left to do;
// and where nothing is left to do without an answer, the answer is null.
function run(handler, event, context) {
  return new Promise((done, failed) => {
    idle = () => done(null);
    const settle = (error, value) => {
      const go = () => (error !== null && error !== undefined ? failed(error) : done(value));
      if (context.callbackWaitsForEmptyEventLoop) idle = go; else go();
    };
    context.done = settle;
    context.succeed = (value) => settle(null, value);
    context.fail = (error) => settle(error ?? 'handled');
    const result = handler(event, context, settle);
    if (typeof result?.then === 'function') result.then(done, failed);
  });
}

async function stream(handler, event, context, headers) {
  const to = new ResponseStream(requestId, headers);
  try {
    await handler(event, to, context);
    if (!to.writableEnded) to.end();
    if (!to.writableFinished) {
      await new Promise((done, failed) => to.once('finish', done).once('error', failed));
    }
    await to.accepted;
  } catch (error) {
    console.error('Invoke Error', '\t' + JSON.stringify(shapeOf(error)));
    await to.fail(error);
  }
}

// Answers with what comes next, where that is known.
async function invoke(handler, fixed, { headers, text }) {
  const id = requestId = headers['lambda-runtime-aws-request-id'];
  const nonce = headers['lambda-runtime-invocation-id'];
  const echo = nonce ? { 'lambda-runtime-invocation-id': nonce } : {};
  if (headers['lambda-runtime-trace-id']) process.env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'];
  let answer, path = 'response';
  try {
    const event = JSON.parse(text());
    const context = contextOf(fixed, headers);
    if (handler[streaming]) return await stream(handler, event, context, echo);
    // While the handler works, the connection is no reason for the loop to go on.
    api.socket.unref();
    answer = JSON.stringify((await run(handler, event, context)) ?? null) ?? 'null';
  } catch (error) {
    const shape = shapeOf(error);
    console.error('Invoke Error', '\t' + JSON.stringify({ ...shape, stack: shape.trace, trace: undefined }));
    echo['lambda-runtime-function-error-type'] = shape.errorType.replace(/[^ -~]/g, '?');
    [path, answer] = ['error', JSON.stringify(shape)];
  } finally {
    idle = undefined;
    api.socket.ref();
  }
  // Where the answer is taken, the next invocation is what is said to it.
  echo['stead-then'] = 'next';
  const next = api.post(`invocation/${id}/${path}`, echo, answer);
  requestId = undefined;
  const said = await next;
  if (said.status === 200) return said;
  if (said.headers.connection === 'close') {
    api.socket.destroy();
    api = new Api(process.env.AWS_LAMBDA_RUNTIME_API);
  }
}

// An error that nobody caught ends the process, as on Lambda; whoever called gets it. The connection may be in use.
function die(error, kind) {
  const shape = shapeOf(kind ? named(kind, String(error?.message ?? error), error) : error);
  console.error(requestId ? 'Uncaught Exception' : 'Init Error', '\t' + JSON.stringify(shape));
  const path = requestId ? `invocation/${requestId}/error` : 'init/error';
  const other = new Api(process.env.AWS_LAMBDA_RUNTIME_API);
  const kindly = { 'lambda-runtime-function-error-type': shape.errorType.replace(/[^ -~]/g, '?') };
  other.post(path, kindly, JSON.stringify(shape)).finally(() => process.exit(requestId ? 129 : 1));
}

function readEnvironment() {
  const part = Buffer.alloc(65536);
  let line = '';
  while (!line.endsWith('\n')) {
    const length = readSync(0, part);
    if (length === 0) process.exit(0);
    line += part.toString('latin1', 0, length);
  }
  closeSync(0);
  openSync('/dev/null', 'r');
  Object.assign(process.env, JSON.parse(Buffer.from(line, 'latin1').toString('utf8')));
}

if (!process.env.AWS_LAMBDA_RUNTIME_API) {
  // All that can be done before it is known for whom.
  await new Promise((done) => api.socket.once('connect', done));
  await import('file:///var/runtime/warm.mjs');
  patchConsole();
  readEnvironment();
}
if (process.env.STEAD_INSPECT) {
  const port = Number(process.env.STEAD_INSPECT);
  delete process.env.STEAD_INSPECT;
  try {
    (await import('node:inspector')).open(port, '127.0.0.1');
  } catch (error) {
    console.error(`no debugger can be attached: ${error.message}`);
  }
}
process.chdir(process.env.LAMBDA_TASK_ROOT);
const memory = Number(process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE);
if (memory) v8.setFlagsFromString(`--max-old-space-size=${Math.floor(memory * 0.9)}`);
patchConsole();
process.on('uncaughtException', (error) => die(error));
process.on('unhandledRejection', (error) => die(error, 'Runtime.UnhandledPromiseRejection'));
let handler;
try {
  handler = await importHandler();
} catch (error) {
  die(error);
}
const fixed = known();
let next;
while (handler) {
  next = await invoke(handler, fixed, next ?? await api.get('invocation/next'));
  requestId = undefined;
}

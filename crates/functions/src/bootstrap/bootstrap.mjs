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

// The runtime API over one connection. HTTP is spoken by hand, because the other side is known: it answers in order and
// says how long each answer is. Node's own client takes longer for a call than all the rest.
class Api {
  constructor(address) {
    const [host, port] = address.split(':');
    this.waiting = [];
    this.buffer = Buffer.alloc(0);
    this.socket = net.connect({ host, port: Number(port), noDelay: true });
    this.socket.on('data', (data) => this.take(data));
    this.socket.on('error', (error) => this.break(error));
    this.socket.on('close', () => this.break(new Error('the runtime API has gone')));
  }
  break(error) {
    this.broken = error;
    for (const { failed } of this.waiting.splice(0)) failed(error);
  }
  take(data) {
    this.buffer = this.buffer.length ? Buffer.concat([this.buffer, data]) : data;
    for (;;) {
      const end = this.buffer.indexOf('\r\n\r\n');
      if (end < 0) return;
      const [line, ...lines] = this.buffer.latin1Slice(0, end).split('\r\n');
      const headers = {};
      for (const header of lines) {
        const colon = header.indexOf(':');
        headers[header.slice(0, colon).toLowerCase()] = header.slice(colon + 1).trim();
      }
      const last = end + 4 + Number(headers['content-length'] ?? 0);
      if (this.buffer.length < last) return;
      const body = this.buffer.subarray(end + 4, last);
      this.buffer = this.buffer.subarray(last);
      this.waiting.shift()?.done({ status: Number(line.slice(9, 12)), headers, body });
    }
  }
  answer() {
    return new Promise((done, failed) => {
      if (this.broken) failed(this.broken); else this.waiting.push({ done, failed });
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
  // The answer to one invocation, and at once the question for the next: they go in one packet.
  post(path, headers, body, then) {
    const length = Buffer.byteLength(body);
    let text = this.head('POST', path, { ...headers, 'content-type': 'application/json', 'content-length': length }) + body;
    // What is large may be refused, and then the connection is of no use for another question.
    const both = then && length < 65536;
    if (both) text += this.head('GET', then);
    this.socket.write(text);
    const accepted = this.answer();
    if (both) this.next = this.answer();
    return accepted;
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

function contextOf(headers) {
  const env = process.env;
  const json = (text) => (text ? JSON.parse(text) : undefined);
  const deadline = Number(headers['lambda-runtime-deadline-ms']);
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: env.AWS_LAMBDA_FUNCTION_NAME, functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME, logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    clientContext: json(headers['lambda-runtime-client-context']),
    identity: json(headers['lambda-runtime-cognito-identity']),
    getRemainingTimeInMillis: () => deadline - Date.now(),
  };
}

// The handler's answer: a promise's value, or what a callback was given. A callback's waits until nothing is left to do;
// and where nothing is left to do without an answer, the answer is null.
function run(handler, event, context) {
  let idle;
  const settled = new Promise((done, failed) => {
    idle = () => done(null);
    process.once('beforeExit', () => idle());
    const settle = (error, value) => {
      const go = () => (error !== null && error !== undefined ? failed(error) : done(value));
      if (context.callbackWaitsForEmptyEventLoop) idle = go; else go();
    };
    Object.assign(context, { done: settle, succeed: (value) => settle(null, value),
      fail: (error) => settle(error ?? 'handled') });
    const result = handler(event, context, settle);
    if (typeof result?.then === 'function') result.then(done, failed);
  });
  return settled.finally(() => process.removeAllListeners('beforeExit'));
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

async function invoke(handler, headers, body) {
  const id = requestId = headers['lambda-runtime-aws-request-id'];
  const nonce = headers['lambda-runtime-invocation-id'];
  const echo = nonce ? { 'lambda-runtime-invocation-id': nonce } : {};
  if (headers['lambda-runtime-trace-id']) process.env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'];
  let text, path = 'response';
  try {
    const event = JSON.parse(body.utf8Slice());
    const context = contextOf(headers);
    if (handler[streaming]) return await stream(handler, event, context, echo);
    // While the handler works, the connection is no reason for the loop to go on.
    api.socket.unref();
    text = JSON.stringify((await run(handler, event, context)) ?? null) ?? 'null';
  } catch (error) {
    const shape = shapeOf(error);
    console.error('Invoke Error', '\t' + JSON.stringify({ ...shape, stack: shape.trace, trace: undefined }));
    echo['lambda-runtime-function-error-type'] = shape.errorType.replace(/[^ -~]/g, '?');
    [path, text] = ['error', JSON.stringify(shape)];
  } finally {
    api.socket.ref();
  }
  const accepted = api.post(`invocation/${id}/${path}`, echo, text, 'invocation/next');
  if (!api.next && (await accepted).headers.connection === 'close') {
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
while (handler) {
  const { headers, body } = await (api.next ?? api.get('invocation/next'));
  api.next = undefined;
  await invoke(handler, headers, body);
  requestId = undefined;
}

// Runs a Lambda function in Node.js: reads its environment as one line of JSON from standard input, imports the handler,
// then asks the runtime API for invocations until the process is ended.
import { Console } from 'node:console';
import { Writable } from 'node:stream';
import { existsSync, readSync, closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { format } from 'node:util';
import v8 from 'node:v8';
import http from 'node:http';

const agent = new http.Agent({ keepAlive: true, maxSockets: 1, noDelay: true });
const streaming = Symbol('streaming');
let requestId;

// One connection for all calls; it is opened again where it broke while nothing was under way.
function call(method, path, headers, body) {
  const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
  return new Promise((done, failed) => {
    const request = http.request(
      { host, port, method, path: '/2018-06-01/runtime/' + path, headers, agent, timeout: 0 },
      (response) => {
        const parts = [];
        response.on('data', (part) => parts.push(part));
        response.on('error', failed);
        response.on('end', () =>
          done({ status: response.statusCode, headers: response.headers, body: Buffer.concat(parts) }));
      });
    request.on('error', failed);
    if (body && typeof body.pipe === 'function') body.attach(request);
    else request.end(body);
  });
}

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
    this.waiting = [];
    this.type = 'application/octet-stream';
    this.begin = () => {
      this.begun ??= call('POST', `invocation/${id}/response`, { ...headers, 'content-type': this.type,
        'lambda-runtime-function-response-mode': 'streaming', 'transfer-encoding': 'chunked',
        trailer: 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body' }, { pipe() {}, attach: (request) => {
        this.request = request;
      } });
      return this.begun;
    };
  }
  setContentType(type) { this.type = type; }
  _write(part, encoding, done) {
    this.begin();
    if (this.request.write(part, encoding)) done(); else this.request.once('drain', () => done());
  }
  _final(done) { this.begin(); this.request.end(); done(); }
  async fail(error) {
    this.begin();
    const shape = shapeOf(error);
    this.request.addTrailers({ 'Lambda-Runtime-Function-Error-Type': shape.errorType,
      'Lambda-Runtime-Function-Error-Body': Buffer.from(JSON.stringify(shape)).toString('base64') });
    this.request.end();
    await this.begun;
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

async function invoke(handler, headers, body) {
  const id = requestId = headers['lambda-runtime-aws-request-id'];
  const nonce = headers['lambda-runtime-invocation-id'];
  const echo = nonce ? { 'lambda-runtime-invocation-id': nonce } : {};
  if (headers['lambda-runtime-trace-id']) process.env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'];
  try {
    const event = JSON.parse(body.toString('utf8'));
    const context = contextOf(headers);
    if (handler[streaming]) {
      const stream = new ResponseStream(id, echo);
      try {
        await handler(event, stream, context);
        if (!stream.writableEnded) stream.end();
        await new Promise((done, failed) => (stream.writableFinished ? done() : stream.once('finish', done).once('error', failed)));
        await stream.begun;
      } catch (error) {
        console.error('Invoke Error', JSON.stringify(shapeOf(error)));
        await stream.fail(error);
      }
      return;
    }
    const value = await run(handler, event, context);
    const text = JSON.stringify(value === undefined ? null : value);
    await call('POST', `invocation/${id}/response`, { ...echo, 'content-type': 'application/json',
      'content-length': Buffer.byteLength(text ?? 'null') }, text ?? 'null');
  } catch (error) {
    const shape = shapeOf(error);
    console.error('Invoke Error', '\t' + JSON.stringify({ ...shape, stack: shape.trace, trace: undefined }));
    await call('POST', `invocation/${id}/error`, { ...echo, 'content-type': 'application/json',
      'lambda-runtime-function-error-type': shape.errorType }, JSON.stringify(shape));
  }
}

// An error that nobody caught ends the process, as on Lambda; whoever called gets it.
function die(error, kind) {
  const shape = shapeOf(kind ? named(kind, String(error?.message ?? error), error) : error);
  console.error(requestId ? 'Uncaught Exception' : 'Init Error', '\t' + JSON.stringify(shape));
  const path = requestId ? `invocation/${requestId}/error` : 'init/error';
  agent.maxSockets = Infinity;
  call('POST', path, { 'content-type': 'application/json', 'lambda-runtime-function-error-type': shape.errorType },
    JSON.stringify(shape)).finally(() => process.exit(requestId ? 129 : 1));
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

if (!process.env.AWS_LAMBDA_RUNTIME_API) readEnvironment();
process.chdir(process.env.LAMBDA_TASK_ROOT);
const memory = Number(process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE);
if (memory) v8.setFlagsFromString(`--max-old-space-size=${Math.floor(memory * 0.9)}`);
patchConsole();
process.on('uncaughtException', (error) => die(error));
process.on('unhandledRejection', (error) => die(error, 'Runtime.UnhandledPromiseRejection'));
// Callbacks may wait for the loop to be empty; a connection that waits for the next event would keep it busy.
let handler;
try {
  handler = await importHandler();
} catch (error) {
  die(error);
}
while (handler) {
  const { headers, body } = await call('GET', 'invocation/next');
  await invoke(handler, headers, body);
  requestId = undefined;
}

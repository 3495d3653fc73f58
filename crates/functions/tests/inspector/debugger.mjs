// A debugger as a developer has one: it speaks the inspector's protocol through Node's own WebSocket, and says line by
// line what it sees. Run as: node --experimental-websocket debugger.mjs PORT LINE EXPRESSION
//
// At the breakpoint it evaluates the expression, stays until the call is half a second past its deadline by the clock of
// the worker, and goes on. Then it has the worker, which has nothing to do, wait for a timer.
const [port, lineNumber, expression] = process.argv.slice(2);
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');

const [target] = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
const socket = new WebSocket(target.webSocketDebuggerUrl);
await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
socket.onclose = () => { say({ closed: true }); process.exit(0); };

let last = 0;
const waiting = new Map();
const told = new Map();
socket.onmessage = ({ data }) => {
  const { id, result, error, method, params } = JSON.parse(data);
  if (method) return told.get(method)?.(params);
  const { done, failed } = waiting.get(id);
  if (error) failed(new Error(error.message)); else done(result);
};
const ask = (method, params = {}) => new Promise((done, failed) => {
  waiting.set(last += 1, { done, failed });
  socket.send(JSON.stringify({ id: last, method, params }));
});
const event = (method) => new Promise((done) => told.set(method, done));

await ask('Runtime.enable');
await ask('Debugger.enable');
const { breakpointId } = await ask('Debugger.setBreakpointByUrl', { 
  urlRegex: '.*/var/task/index\\.mjs$', lineNumber: Number(lineNumber),
});
const paused = event('Debugger.paused');
say({ attached: true });
const { callFrames: [{ callFrameId }] } = await paused;
const evaluate = async (expression) =>
  (await ask('Debugger.evaluateOnCallFrame', { callFrameId, expression, returnByValue: true })).result.value;
say({ paused: await evaluate(expression) });
let left;
do left = await evaluate('context.getRemainingTimeInMillis()'); while (left > -500);
say({ past: left });
await ask('Debugger.removeBreakpoint', { breakpointId });
await ask('Debugger.resume');
const timer = "new Promise((done) => setTimeout(() => done('awake'), 200))";
const { result } = await ask('Runtime.evaluate', { expression: timer, awaitPromise: true });
say({ rest: result.value });

// A function in Node.js that does what its event says, the same in every language.
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

class Nasty extends Error {
  name = 'Nasty';
}

export const handler = async (event, context) => {
  switch (event?.do) {
    case 'context':
      return { id: context.awsRequestId, arn: context.invokedFunctionArn, function: context.functionName,
        version: context.functionVersion, memory: Number(context.memoryLimitInMB), log_group: context.logGroupName,
        log_stream: context.logStreamName, trace: process.env._X_AMZN_TRACE_ID,
        remaining_ms: context.getRemainingTimeInMillis(), client: context.clientContext?.custom };
    case 'fail':
      throw new Nasty('on purpose');
    case 'exit':
      return process.exit(3);
    case 'print':
      console.log(event.text);
      return null;
    case 'pad':
      return { text: 'x'.repeat(event.bytes) };
    case 'wait':
      await pause(event.ms);
      return { number: event.number ?? 0 };
    default:
      return { got: event };
  }
};

// Five pieces, a moment apart; with a prelude where it is asked by HTTP.
export const stream = awslambda.streamifyResponse(async (event, out) => {
  if (event.do === 'fail') throw new Nasty('on purpose');
  if (event.rawPath) {
    const headers = { 'content-type': 'text/plain', 'x-mine': 'yes' };
    out = awslambda.HttpResponseStream.from(out, { statusCode: 202, headers, cookies: ['a=1'] });
  }
  for (let piece = 0; piece < 5; piece++) {
    out.write(`piece ${piece}\n`);
    await pause(100);
  }
  if (event.do === 'break' || event.rawPath === '/break') throw new Nasty('on purpose');
  out.end();
});

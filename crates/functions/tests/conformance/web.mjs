// A site in Express, behind serverless-express; the same in every framework.
import serverlessExpress from '@codegenie/serverless-express';
import express from 'express';

const app = express();
app.use(express.raw({ type: () => true, limit: '10mb' }));

app.get('/context', (request, response) => {
  const { context } = serverlessExpress.getCurrentInvoke();
  response.status(201).json({ method: request.method, path: request.path, x: request.query.x, id: context.awsRequestId });
});
app.get('/fail', () => {
  throw new Error('on purpose');
});
app.get('/text', (request, response) => response.type('text/plain').send('x'.repeat(Number(request.query.bytes))));
app.get('/binary', (request, response) => {
  response.type('application/octet-stream').send(Buffer.from(Array.from({ length: 256 }, (_, n) => n)));
});
app.post('/echo', (request, response) => response.set('content-type', request.get('content-type')).send(request.body));
app.get('/cookies', (request, response) => {
  response.append('set-cookie', 'a=1').append('set-cookie', 'b=2; Path=/; Secure');
  response.send(request.get('cookie') ?? '');
});
app.get('/wait', (request, response) => {
  setTimeout(() => response.json({ number: Number(request.query.number ?? 0) }), Number(request.query.ms));
});

export const handler = serverlessExpress({ app, binarySettings: { contentTypes: ['application/octet-stream'] } });

// A real identity provider on loopback, for tests: people sign in by their name and any password. Says its address when
// it is up. What it says of people, and which key it signs with, is changed by a line of JSON on its standard input:
// {"groups": {"ann": ["staff"]}} or {"rotate": true}.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const modules = process.env.STEAD_TEST_NODE_MODULES;
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
const redirects = JSON.parse(process.argv[2]);

let groups = {};
const key = () => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  use: 'sig', alg: 'RS256', kid: randomUUID(),
});
const account = (id) => ({
  accountId: id,
  claims: () => ({
    sub: `subject-of-${id}`, email: `${id}@Acme.example`, email_verified: id !== 'mallory', groups: groups[id] ?? [],
  }),
});
const make = (issuer) => {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'stead', client_secret: 'of the test alone', redirect_uris: redirects.back,
      post_logout_redirect_uris: redirects.out, response_types: ['code'], grant_types: ['authorization_code'],
    }],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['groups'] },
    cookies: { keys: ['of the test alone'] },
    findAccount: (_, id) => account(id),
    pkce: { required: () => true },
    jwks: { keys: [key()] },
    features: { devInteractions: { enabled: true } },
  });
  provider.on('server_error', (_, error) => console.error(error));
  return provider;
};

let current;
const server = createServer((request, response) => current.callback()(request, response));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  current = make(issuer);
  console.log(issuer);
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const told = JSON.parse(line);
    if (told.groups) groups = told.groups;
    if (told.rotate) current = make(issuer);
    console.log('done');
  });
  // It ends with the test.
  lines.on('close', () => process.exit(0));
});

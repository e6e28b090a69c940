// An OpenID provider on loopback, as `oidc-provider` makes them: anybody may log in, by any password. It is told its
// private keys by a line of JSON, again and again; each answer is a line too, and from then on it signs with the first.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { Provider } from 'oidc-provider';

const [port, redirectUri, audience] = process.argv.slice(2);
const SCOPES = 'documents:read documents:write';

// What of this is not for production, it would say among the answers.
console.info = console.warn = () => {};

let callback;
const server = createServer((request, response) => callback(request, response));
await new Promise((listening) => server.listen(Number(port), '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const client = (id, more) => ({ client_id: id, redirect_uris: [], response_types: [], ...more });
const service = (id) => client(id, { client_secret: `secret of ${id}`, grant_types: ['client_credentials'] });

const clients = [
  client('web', {
    token_endpoint_auth_method: 'none',
    application_type: 'native',
    redirect_uris: [redirectUri],
    response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token'],
  }),
  service('billing'),
  service('fleeting'),
];

function withKeys(keys) {
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys },
    cookies: { keys: ['a key for cookies'] },
    pkce: { required: () => true },
    clientBasedCORS: () => true,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    // Who may do more than others is what their names say.
    extraTokenClaims: (_, token) => ({ roles: [token.accountId?.split('.')[1] ?? token.clientId] }),
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource, { clientId }) => ({
          audience: resource,
          scope: SCOPES,
          accessTokenFormat: 'jwt',
          accessTokenTTL: clientId === 'fleeting' ? 1 : 600,
          jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
  });
  return provider.callback();
}

for await (const line of createInterface({ input: process.stdin })) {
  callback = withKeys(JSON.parse(line).keys);
  console.log(JSON.stringify({ issuer }));
}
process.exit();

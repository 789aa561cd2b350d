// Does through an emulator what programs do all day, with node-postgres; tokens by the AWS SDK for JavaScript.
//
// Started by tests/it/clients.rs with one JSON object as its argument. Each step prints a line `client: step: result`.
//
// Needs pg and @aws-sdk/rds-signer on NODE_PATH (.ci/setup gets them).
"use strict";

const fs = require("node:fs");
const { Signer } = require("@aws-sdk/rds-signer");
const { Client } = require("pg");

const LIMIT = 60_000;

const say = (step, ...results) => console.log(`node-postgres: ${step}: ${results.join(" ")}`);

async function refused(action) {
  try {
    await action();
    return "no error";
  } catch (error) {
    return error.code;
  }
}

async function main() {
  const world = JSON.parse(process.argv[2]);
  for (const name of Object.keys(process.env).filter((name) => /^(PG|AWS_)/.test(name))) {
    delete process.env[name];
  }
  const token = (secret) => {
    const credentials = { accessKeyId: world.key, secretAccessKey: secret, sessionToken: world.session_token };
    const { host, port, region, user } = world;
    return new Signer({ credentials, hostname: host, port, region, username: user }).getAuthToken();
  };
  const client = (password) =>
    new Client({
      host: world.host,
      port: world.port,
      user: world.user,
      database: world.database,
      password,
      ssl: { ca: fs.readFileSync(world.ca_file, "utf8") },
      connectionTimeoutMillis: LIMIT,
    });

  const connection = client(await token(world.secret));
  await connection.connect();
  const value = async (text, values) => Object.values((await connection.query(text, values)).rows[0])[0];

  say("select", await value("SELECT current_user"), await value("SELECT 41 + $1::int4", [1]));
  await connection.query("CREATE TABLE by_node (id int PRIMARY KEY)");
  say("insert", (await connection.query("INSERT INTO by_node VALUES ($1)", [1])).rowCount);
  for (const [id, end] of [[2, "COMMIT"], [3, "ROLLBACK"]]) {
    await connection.query("BEGIN");
    await connection.query("INSERT INTO by_node VALUES ($1)", [id]);
    await connection.query(end);
    say(end.toLowerCase(), await value("SELECT count(*) FROM by_node"));
  }
  const double = (number) => value({ name: "double", text: "SELECT 2 * $1::int4" , values: [number] });
  say("prepared", await double(7), await double(8));
  say("error", await refused(() => value("SELECT 1 / $1::int4", [0])));
  await connection.query("BEGIN");
  await refused(() => connection.query("INSERT INTO by_node VALUES (1)"));
  const code = await refused(() => connection.query("SELECT 1"));
  await connection.query("ROLLBACK");
  say("error in a transaction", code, await value("SELECT count(*) FROM by_node"));
  await connection.end();

  const stranger = client(await token(world.secret.slice(0, -1)));
  await stranger.connect().then(
    () => say("refused", "no"),
    (error) => say("refused", error.message),
  );
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});

#!/usr/bin/env python3
"""Does through an emulator what programs do all day, with psycopg and asyncpg; tokens by botocore.

Started by tests/it/clients.rs with one JSON object as its argument. Each step prints a line `client: step: result`.

Needs boto3, psycopg 3 and asyncpg (.ci/setup gets the last two).
"""

import asyncio
import json
import os
import ssl
import sys
import threading

import asyncpg
import boto3
import psycopg

LIMIT = 60
# Longer than a cancel request takes to arrive.
SLEEP = 0.1


def token(world, secret):
    session = boto3.session.Session(world["key"], secret, world["session_token"], region_name=world["region"])
    return session.client("rds").generate_db_auth_token(world["host"], world["port"], world["user"])


def tell(client, step, *results):
    print(f"{client}: {step}: {' '.join(map(str, results))}", flush=True)


def by_psycopg(world, right, wrong):
    def say(step, *results):
        tell("psycopg", step, *results)

    def connect(password):
        return psycopg.connect(
            # The name may stand for an IPv6 address too.
            host=world["host"], hostaddr="127.0.0.1", port=world["port"], user=world["user"], dbname=world["database"],
            password=password, sslmode="verify-full", sslrootcert=world["ca_file"], connect_timeout=LIMIT, autocommit=True,
        )

    connection = connect(right)

    def value(sql, *arguments, **how):
        return connection.execute(sql, arguments, **how).fetchone()[0]

    def refused(action):
        try:
            action()
        except psycopg.Error as error:
            return error.sqlstate
        return "no error"

    say("select", value("SELECT current_user"), value("SELECT 41 + %s", 1))
    connection.execute("CREATE TABLE by_psycopg (id int PRIMARY KEY)")
    say("insert", connection.execute("INSERT INTO by_psycopg VALUES (%s)", [1]).rowcount)
    with connection.transaction():
        connection.execute("INSERT INTO by_psycopg VALUES (2)")
    say("commit", value("SELECT count(*) FROM by_psycopg"))
    with connection.transaction(force_rollback=True):
        connection.execute("INSERT INTO by_psycopg VALUES (3)")
    say("rollback", value("SELECT count(*) FROM by_psycopg"))
    say("prepared", *[value("SELECT 2 * %s::int4", number, prepare=True) for number in (7, 8)])
    say("error", refused(lambda: value("SELECT 1 / %s", 0)))

    def after_an_error():
        with connection.transaction():
            refused(lambda: connection.execute("INSERT INTO by_psycopg VALUES (1)"))
            connection.execute("SELECT 1")

    say("error in a transaction", refused(after_an_error), value("SELECT count(*) FROM by_psycopg"))
    with connection.cursor().copy("COPY by_psycopg FROM STDIN") as copy:
        copy.write("10\n11\n")
    with connection.cursor().copy("COPY by_psycopg TO STDOUT") as copy:
        say("copy", sum(len(block) for block in copy))
    # As the extended protocol does it, whose first Sync a server takes no notice of.
    connection.pgconn.send_query_params(b"COPY by_psycopg FROM STDIN", [])
    say("copy with parameters", psycopg.pq.ExecStatus(connection.pgconn.get_result().status).name)
    connection.pgconn.put_copy_data(b"12\n")
    connection.pgconn.put_copy_end()
    while result := connection.pgconn.get_result():
        say("rows", result.command_tuples)
    with connection.transaction(), connection.cursor(name="rows") as rows:
        rows.itersize = 2
        rows.execute("SELECT id FROM by_psycopg ORDER BY id")
        say("cursor", *[row[0] for row in rows])
    canceller = threading.Timer(SLEEP / 4, connection.cancel_safe)
    canceller.start()
    say("a cancel request changes nothing", value("SELECT 1 FROM pg_sleep(%s)", SLEEP))
    canceller.join()
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int4", [number]) for number in range(3)]
        say("pipeline", *[cursor.fetchone()[0] for cursor in cursors])
    connection.close()
    try:
        connect(wrong)
    except psycopg.OperationalError as error:
        say("refused", str(error).split("FATAL:")[-1].strip())


async def by_asyncpg(world, right, wrong):
    def say(step, *results):
        tell("asyncpg", step, *results)

    def connect(password):
        return asyncpg.connect(
            host=world["host"], port=world["port"], user=world["user"], database=world["database"], password=password,
            ssl=ssl.create_default_context(cafile=world["ca_file"]), timeout=LIMIT,
        )

    async def refused(action):
        try:
            await action
        except asyncpg.PostgresError as error:
            return error.sqlstate
        return "no error"

    connection = await connect(right)
    value = connection.fetchval
    say("select", await value("SELECT current_user::text"), await value("SELECT 41 + $1", 1))
    await connection.execute("CREATE TABLE by_asyncpg (id int PRIMARY KEY)")
    say("insert", (await connection.execute("INSERT INTO by_asyncpg VALUES ($1)", 1)).split()[-1])
    async with connection.transaction():
        await connection.execute("INSERT INTO by_asyncpg VALUES (2)")
    say("commit", await value("SELECT count(*) FROM by_asyncpg"))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO by_asyncpg VALUES (3)")
    await transaction.rollback()
    say("rollback", await value("SELECT count(*) FROM by_asyncpg"))
    double = await connection.prepare("SELECT 2 * $1::int4")
    say("prepared", *[await double.fetchval(number) for number in (7, 8)])
    say("error", await refused(value("SELECT 1 / $1::int4", 0)))

    async def after_an_error():
        async with connection.transaction():
            await refused(connection.execute("INSERT INTO by_asyncpg VALUES (1)"))
            await connection.execute("SELECT 1")

    say("error in a transaction", await refused(after_an_error()), await value("SELECT count(*) FROM by_asyncpg"))
    await connection.copy_records_to_table("by_asyncpg", records=[(10,), (11,)])
    blocks = []

    async def keep(block):
        blocks.append(len(block))

    await connection.copy_from_query("SELECT id FROM by_asyncpg", output=keep)
    say("copy", sum(blocks))
    async with connection.transaction():
        rows = connection.cursor("SELECT id FROM by_asyncpg ORDER BY id", prefetch=2)
        say("cursor", *[row[0] async for row in rows])
    try:
        await value("SELECT 1 FROM pg_sleep($1)", SLEEP, timeout=SLEEP / 4)
    except asyncio.TimeoutError:
        # It has sent a cancel request.
        pass
    say("a cancel request changes nothing", await value("SELECT 1"))
    await connection.executemany("INSERT INTO by_asyncpg VALUES ($1)", [(number,) for number in (20, 21, 22)])
    say("many", await value("SELECT count(*) FROM by_asyncpg"))
    await connection.reset()
    await connection.close()
    try:
        await connect(wrong)
    except asyncpg.PostgresError as error:
        say("refused", error)


def main():
    world = json.loads(sys.argv[1])
    for name in [name for name in os.environ if name.startswith(("PG", "AWS_"))]:
        del os.environ[name]
    right, wrong = token(world, world["secret"]), token(world, world["secret"][:-1])
    by_psycopg(world, right, wrong)
    asyncio.run(by_asyncpg(world, right, wrong))


if __name__ == "__main__":
    main()

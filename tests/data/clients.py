#!/usr/bin/env python3
"""Logs in to an emulator as programs in other languages do: tokens by botocore, logins by psql and psycopg2.

Started by tests/it/clients.rs with one JSON object as its argument. Each login prints a line `case: client: result`;
the codes are the emulator's to tell, because libpq does not pass on those of a login.

Needs boto3, psycopg2 and psql (Debian: apt-get install python3-boto3 python3-psycopg2 postgresql-client).
"""

import datetime
import json
import os
import re
import subprocess
import sys

import boto3
import psycopg2
from token_vectors import stopped_clock

MINUTE = 60
LIMIT = 60


def tokens(world):
    """The password of each case."""
    host, port, user, secret = world["host"], world["port"], world["user"], world["secret"]

    def token(host=host, port=port, user=user, secret=secret, age=0):
        session = boto3.session.Session(world["key"], secret, world["session_token"], region_name=world["region"])
        at = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) - datetime.timedelta(seconds=age)
        with stopped_clock(at):
            return session.client("rds").generate_db_auth_token(host, port, user)

    return {
        "right": token(),
        "14 minutes old": token(age=14 * MINUTE),
        "expired": token(age=15 * MINUTE + 1),
        "wrong host": token(host="app.proxy-abcdefghijkl.us-east-1.rds.amazonaws.com"),
        "wrong port": token(port=port - 1),
        "wrong user": token(user=f"{user}2"),
        "wrong secret": token(secret=secret[:-1]),
        "tampered query": token().replace("X-Amz-Expires=900", "X-Amz-Expires=899"),
        "no TLS": token(),
        "password": "a password",
    }


def refusal(text):
    """What the server said, without what libpq says about it."""
    said = re.search(r"FATAL:\s+(.*)", text)
    return said.group(1) if said else f"no refusal: {text.strip()}"


def by_psql(parameters, password):
    connection = " ".join(f"{name}='{value}'" for name, value in parameters.items())
    command = ["psql", "-XAtw", "-d", connection, "-c", "SELECT current_user IS NOT NULL, 41 + 1"]
    environment = {**os.environ, "PGPASSWORD": password}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    return "t|42" if done.stdout == "t|42\n" and done.returncode == 0 else refusal(done.stderr)


def by_psycopg2(parameters, password):
    try:
        connection = psycopg2.connect(**parameters, password=password)
    except psycopg2.OperationalError as error:
        return refusal(str(error))
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user IS NOT NULL, 41 + %s", (1,))
        flag, number = cursor.fetchone()
    connection.close()
    return f"{'t' if flag else 'f'}|{number}"


def main():
    world = json.loads(sys.argv[1])
    for name in [name for name in os.environ if name.startswith(("PG", "AWS_"))]:
        del os.environ[name]
    for case, password in tokens(world).items():
        parameters = {
            "host": world["host"],
            # The name may stand for an IPv6 address too.
            "hostaddr": "127.0.0.1",
            "port": world["port"],
            "user": world["user"],
            "dbname": world["database"],
            "connect_timeout": LIMIT,
            "sslmode": "disable" if case == "no TLS" else "verify-full",
            "sslrootcert": world["ca_file"],
        }
        for client in [by_psql, by_psycopg2]:
            print(f"{case}: {client.__name__[3:]}: {client(parameters, password)}", flush=True)


if __name__ == "__main__":
    main()

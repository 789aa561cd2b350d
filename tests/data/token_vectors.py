#!/usr/bin/env python3
"""Writes token_vectors.json: login tokens as botocore makes them, which `src/sign.rs` must make too.

    python3 tests/data/token_vectors.py

Needs botocore and boto3 (Debian: apt-get install python3-boto3); no network, no account. All keys are invented.
"""

import datetime
import json
import pathlib
from unittest import mock

import boto3
import botocore.auth

USERS = [
    "peccy", "app_user", "first last", " leading", "a+b", "iam@example.com", "team/app", "100%", "%41", "a&b=c", "a=b", "a&DBUser=root",
    "o'brien", 'quo"te', "semi;colon", "q?x#y", "tilde~dash-dot.under_", "back\\slash", "jürgen", "ñandú", "用户", "🦀", "e\u0301", "a,b:c$d!e*f(g)",
]
PROXY = "app.proxy-abcdefghijkl."
HOSTS = [
    (PROXY + "us-east-1.rds.amazonaws.com", "us-east-1"),
    (PROXY + "eu-central-1.rds.amazonaws.com", "eu-central-1"),
    ("app-read.endpoint.proxy-abcdefghijkl.ap-southeast-2.rds.amazonaws.com", "ap-southeast-2"),
    ("main.cluster-abcdefghijkl.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
    ("main.cluster-ro-abcdefghijkl.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ("localhost", "us-west-2"),
    ("10.1.2.3", "sa-east-1"),
]
PORTS = [5432, 3306, 6543, 443, 80, 1, 65535]
TIMES = ["2024-08-26T22:00:00", "2024-02-29T23:59:59", "2025-12-31T23:59:59", "2026-01-01T00:00:00", "2030-06-07T08:09:01"]
SHORT = "FwoGZXIvYXdzEJr//example+token=="
LONG = ("IQoJb3JpZ2luX2VjE" + "Ab9+/zQ=" * 123)[:998] + "=="
KEYS = [
    ("akid", "secret", None),
    ("ASIAEXAMPLEEXAMPLE00", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", SHORT),
    ("ASIAEXAMPLEEXAMPLE00", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None),
]


def stopped_clock(at):
    if hasattr(botocore.auth, "get_current_datetime"):
        return mock.patch("botocore.auth.get_current_datetime", lambda: at)
    # Older ones, such as Debian 12's 1.29.
    return mock.patch("botocore.auth.datetime", mock.Mock(**{"datetime.utcnow.return_value": at}))


def vector(user, host, region, port, time, keys):
    at = datetime.datetime.fromisoformat(time)
    session = boto3.session.Session(*keys, region_name=region)
    with stopped_clock(at):
        token = session.client("rds").generate_db_auth_token(host, port, user)
    at = int(at.replace(tzinfo=datetime.timezone.utc).timestamp())
    names = ["access_key", "secret_key", "session_token", "host", "port", "region", "user", "at", "token"]
    return dict(zip(names, [*keys, host, port, region, user, at, token]))


def pick(table, number):
    return table[number % len(table)]


def main():
    # The vector the AWS SDK for Rust tests itself with comes first.
    vectors = [vector("peccy", "prod-instance.us-east-1.rds.amazonaws.com", "us-east-1", 3306, TIMES[0], KEYS[0])]
    for row, user in enumerate(USERS):
        for column in range(9):
            host, region = pick(HOSTS, row + column)
            keys = (*KEYS[1][:2], LONG) if column == 8 else pick(KEYS, column)
            vectors.append(vector(user, host, region, pick(PORTS, 3 * row + column), pick(TIMES, row + 2 * column), keys))
    readme = "Login tokens made by `python3 tests/data/token_vectors.py`; do not edit. All keys are invented."
    lines = ",\n".join(json.dumps(v, ensure_ascii=False) for v in vectors)
    made_with = json.dumps(f"botocore {botocore.__version__}")
    text = f'{{"readme": {json.dumps(readme)},\n"made_with": {made_with},\n"vectors": [\n{lines}\n]}}\n'
    json.loads(text)
    pathlib.Path(__file__).with_name("token_vectors.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Looks at a table as often as it is told to, and says in one line of JSON what each look saw."""

import json
import os
import sys

import duckdb
import duckdb_extension_delta
import duckdb_extension_httpfs

LOOK = """
select property, count(*), count(distinct (device, time)), sum(value)
from delta_scan(?) group by property order by property
"""


def extension(package, name: str) -> str:
    """Where the package has the extension for this version."""
    return os.path.join(os.path.dirname(package.__file__), "extensions", f"v{duckdb.__version__}", f"{name}.duckdb_extension")


def main(table: str, looks: int) -> None:
    connection = duckdb.connect()
    for package, name in ((duckdb_extension_httpfs, "httpfs"), (duckdb_extension_delta, "delta")):
        connection.load_extension(extension(package, name))
    if table.startswith("s3://"):
        endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        key, secret, region = (os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"))
        connection.execute(
            f"create secret (type s3, key_id '{key}', secret '{secret}', region '{region}',"
            f" endpoint '{endpoint}', url_style 'path', use_ssl false)"
        )
    for _ in range(looks):
        seen = connection.execute(LOOK, [table]).fetchall()
        rows, identities = (sum(line[column] for line in seen) for column in (1, 2))
        print(json.dumps({"rows": rows, "identities": identities, "sums": {line[0]: line[3] for line in seen}}), flush=True)


main(sys.argv[1], int(sys.argv[2]))

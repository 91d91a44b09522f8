"""What analysts' programs do with the PostgreSQL protocol, through psycopg: prepared statements, typed values, binary
answers, server-side limits. Prints what came out as one JSON document. Its argument is where to connect to."""

import datetime
import json
import sys
import threading
import time

import psycopg

out = {}
utc = datetime.timezone.utc

with psycopg.connect(sys.argv[1]) as connection:
    cursor = connection.cursor()
    begin = datetime.datetime(2026, 3, 29, 0, 0, tzinfo=utc)
    bound = (
        "SELECT time, device, value FROM observation WHERE property = %s AND time >= %s AND trusted = %s ORDER BY time, device LIMIT %s"
    )
    cursor.execute(bound, ("pm10", begin, True, 2))
    out["types"] = [column.type_display for column in cursor.description]
    out["rows"] = [[time.astimezone(utc).isoformat(), device, value] for time, device, value in cursor.fetchall()]

    # Prepared once, run with other values: each run sees what there is then.
    counts = []
    for property in ("pm10", "temperature", "no_such_property"):
        cursor.execute("SELECT count(*) FROM observation WHERE property = %s", (property,), prepare=True)
        counts.append(cursor.fetchone()[0])
    out["counts"] = counts

    with connection.cursor(binary=True) as binary:
        binary.execute("SELECT time, value, trusted, district, longitude FROM observation WHERE property = 'pm10' ORDER BY time LIMIT 1")
        time_, value, trusted, district, longitude = binary.fetchone()
        out["binary"] = [time_.astimezone(utc).isoformat(), value, trusted, district, longitude]

    cursor.execute("SELECT %s::float8 + 0.5, %s::text, %s::int", (1.25, "l'Aquila; --", None))
    out["values"] = list(cursor.fetchone())
    connection.commit()

    # More rows than are asked for at once.
    cursor.execute("SELECT a.value FROM generate_series(1, 20000) a ORDER BY 1 DESC")
    numbers = [row[0] for row in cursor.fetchmany(3)]
    out["many"] = [numbers, cursor.rowcount]

    errors = {}
    for name, statement in {
        "syntax": "SELECT value FROM",
        "table": "SELECT * FROM nowhere",
        "column": "SELECT colour FROM observation",
        "change": "DELETE FROM observation",
        "after an error": "SELECT 1",
    }.items():
        try:
            cursor.execute(statement)
            errors[name] = None
        except psycopg.Error as error:
            errors[name] = error.sqlstate
    connection.rollback()
    out["errors"] = errors

    endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b WHERE a.value + b.value < 0"
    threading.Timer(0.5, connection.cancel).start()
    began = time.monotonic()
    try:
        cursor.execute(endless)
    except psycopg.Error as error:
        out["cancelled"] = [error.sqlstate, time.monotonic() - began < 10]
    connection.rollback()
    cursor.execute("SET statement_timeout = '300ms'")
    try:
        cursor.execute(endless)
    except psycopg.Error as error:
        out["timeout"] = error.sqlstate
    connection.rollback()
    cursor.execute("SET statement_timeout = '50s'")
    cursor.execute("SELECT 1")
    out["after"] = cursor.fetchone()[0]

print(json.dumps(out))

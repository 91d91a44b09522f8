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

    # A named cursor is read by pieces, and sees what there was.
    with connection.cursor(name="Named One") as named:
        named.itersize = 7
        named.execute("SELECT time, value FROM observation WHERE property = %s AND device = %s ORDER BY time", ("pm10", "station-1"))
        pieces = [len(named.fetchmany(50)) for _ in range(2)] + [sum(1 for _ in named)]
        out["named"] = [[column.name for column in named.description], pieces]
    with connection.cursor(name="closed", binary=True) as named:
        named.execute("SELECT value FROM observation WHERE property = 'pm10' AND device = 'station-2' LIMIT 1")
        out["named binary"] = named.fetchone()[0]
    try:
        cursor.execute("FETCH 1 FROM closed")
    except psycopg.Error as error:
        out["closed"] = error.sqlstate
    connection.rollback()

    # Cursors are bounded in number.
    try:
        for number in range(200):
            cursor.execute(f"DECLARE c{number} CURSOR FOR SELECT 1")
    except psycopg.Error as error:
        out["too many cursors"] = [number, error.sqlstate]
    connection.rollback()

    # Rows without frames.
    copied = {}
    for form in ("text", "binary"):
        with cursor.copy(f"COPY (SELECT time, device, value, district FROM observation ORDER BY time, device, property LIMIT 3) TO STDOUT (FORMAT {form})") as copy:
            copy.set_types(["timestamptz", "text", "float8", "text"])
            copied[form] = [[time.astimezone(utc).isoformat(), device, value, district] for time, device, value, district in copy.rows()]
    out["copied"] = copied["text"]
    out["copied alike"] = copied["text"] == copied["binary"]
    with cursor.copy("COPY (SELECT value FROM observation WHERE false) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["float8"])
        out["copied nothing"] = list(copy.rows())
    try:
        with cursor.copy("COPY (SELECT 1 / (100000 - a.value) AS one FROM generate_series(1, 100000) a) TO STDOUT") as copy:
            for row in copy.rows():
                pass
    except psycopg.Error as error:
        out["copy broke off"] = error.sqlstate
    connection.rollback()

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

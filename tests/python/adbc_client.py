"""What a program for tables does with the PostgreSQL protocol, through ADBC: answers come as Arrow, over COPY. Prints what came out as one
JSON document. Its argument is where to connect to."""

import json
import sys

import adbc_driver_postgresql.dbapi as adbc

out = {}
with adbc.connect(sys.argv[1]) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT time, device, value, trusted, district FROM observation WHERE property = 'pm10' ORDER BY time, device")
    table = cursor.fetch_arrow_table()
    out["types"] = [str(kind) for kind in table.schema.types]
    out["rows"] = table.num_rows
    out["sum"] = sum(table.column("value").to_pylist())
    out["first"] = [str(value) for value in table.slice(0, 1).to_pylist()[0].values()]
    cursor.execute("SELECT device, count(*) AS n, avg(value) AS mean FROM observation WHERE property = 'temperature' GROUP BY 1 ORDER BY 1")
    out["grouped"] = cursor.fetch_arrow_table().to_pylist()
    cursor.execute("SELECT value FROM observation WHERE property = $1 AND device = $2 LIMIT 2", ("pm10", "station-2"))
    out["bound"] = cursor.fetch_arrow_table().to_pylist()
    cursor.execute("SELECT value FROM observation WHERE false")
    out["nothing"] = cursor.fetch_arrow_table().num_rows
    try:
        cursor.execute("SELECT colour FROM observation")
    except adbc.Error as error:
        out["column"] = error.sqlstate

print(json.dumps(out))

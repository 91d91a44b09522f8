import io.delta.kernel.Scan;
import io.delta.kernel.Snapshot;
import io.delta.kernel.Table;
import io.delta.kernel.data.ColumnarBatch;
import io.delta.kernel.data.FilteredColumnarBatch;
import io.delta.kernel.data.Row;
import io.delta.kernel.defaults.engine.DefaultEngine;
import io.delta.kernel.engine.Engine;
import io.delta.kernel.internal.InternalScanFileUtils;
import io.delta.kernel.internal.data.ScanStateRow;
import io.delta.kernel.internal.util.Utils;
import io.delta.kernel.types.StructType;
import io.delta.kernel.utils.CloseableIterator;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;

/** Looks at a table as often as it is told to, and says in one line of JSON what each look saw. */
public final class TableReader {
    private final Engine engine = DefaultEngine.create(new Configuration());
    private final Table table;

    private TableReader(String path) {
        table = Table.forPath(engine, path);
    }

    public static void main(String[] arguments) throws Exception {
        TableReader reader = new TableReader(arguments[0]);
        for (long looks = Long.parseLong(arguments[1]); looks > 0; looks--) {
            System.out.println(reader.look());
            System.out.flush();
        }
    }

    private String look() throws Exception {
        Snapshot snapshot = table.getLatestSnapshot(engine);
        StructType all = snapshot.getSchema();
        StructType columns = new StructType();
        for (String name : new String[] {"property", "device", "time", "value"}) {
            columns = columns.add(all.get(name));
        }
        Scan scan = snapshot.getScanBuilder().withReadSchema(columns).build();
        Row state = scan.getScanState(engine);
        StructType read = ScanStateRow.getPhysicalDataReadSchema(engine, state);
        Set<String> identities = new HashSet<>();
        Map<String, Double> sums = new TreeMap<>();
        long rows = 0;
        try (CloseableIterator<FilteredColumnarBatch> files = scan.getScanFiles(engine)) {
            while (files.hasNext()) {
                try (CloseableIterator<Row> file = files.next().getRows()) {
                    while (file.hasNext()) {
                        rows += addFile(state, file.next(), read, identities, sums);
                    }
                }
            }
        }
        StringBuilder text = new StringBuilder();
        sums.forEach((property, sum) -> text.append(text.isEmpty() ? "" : ", ").append('"').append(property).append("\": ").append(sum));
        return "{\"rows\": %d, \"identities\": %d, \"sums\": {%s}}".formatted(rows, identities.size(), text);
    }

    private long addFile(Row state, Row file, StructType read, Set<String> identities, Map<String, Double> sums) throws Exception {
        long rows = 0;
        CloseableIterator<ColumnarBatch> physical = engine.getParquetHandler().readParquetFiles(
                Utils.singletonCloseableIterator(InternalScanFileUtils.getAddFileStatus(file)), read, Optional.empty());
        try (CloseableIterator<FilteredColumnarBatch> batches = Scan.transformPhysicalData(engine, state, file, physical)) {
            while (batches.hasNext()) {
                try (CloseableIterator<Row> rowsOfBatch = batches.next().getRows()) {
                    while (rowsOfBatch.hasNext()) {
                        Row row = rowsOfBatch.next();
                        String property = row.getString(0);
                        identities.add(property + ' ' + row.getString(1) + ' ' + row.getLong(2));
                        sums.merge(property, row.getDouble(3), Double::sum);
                        rows++;
                    }
                }
            }
        }
        return rows;
    }
}

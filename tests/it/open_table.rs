//! The tables are open: programs that share no code with this one read whole versions of them, also while it writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::{Broker, Look, Outgoing, Publisher, Setup, TableReader, now_millis, wait_until};

/// How long is written.
const WRITING: Duration = Duration::from_secs(15);

/// Devices of the load.
const STATIONS: i64 = 20;

/// What was sent: the last value of each device and time.
#[derive(Default)]
struct Sent {
    messages: i64,
    values: BTreeMap<(i64, i64), i64>,
}

impl Sent {
    /// Both values of a message are stored together: four times the sum of one is the sum of the other in every version.
    fn message(&mut self, station: i64, millis: i64, value: i64) -> Outgoing {
        self.messages += 1;
        self.values.insert((station, millis), value);
        let value = value as f64;
        Outgoing::readings(&format!("station-{station}"), millis, &[("pm10", value), ("temperature", value / 4.0)])
    }

    fn look(&self) -> Look {
        let (rows, sum) = (2 * self.values.len() as u64, self.values.values().sum::<i64>() as f64);
        Look { rows, identities: rows, sums: [("pm10".to_owned(), sum), ("temperature".to_owned(), sum / 4.0)].into() }
    }
}

#[test]
fn other_programs_read_whole_versions_while_it_writes() {
    let broker = Broker::start();
    let setup = Setup::of(&broker).set("lake.flush_after", "200ms").set("lake.merge_every", "400ms").set("lake.maintain_every", "300ms");
    // Longer than a look takes.
    let setup = setup.set("query.timeout", "3s").set("sql.timeout", "3s").set("lake.vacuum_after", "6s");
    let conca = setup.start();
    let table = setup.data().join("lake");
    let logs = tempfile::tempdir().unwrap();
    let mut readers = TableReader::ALL.map(|reader| reader.start(table.to_str().unwrap(), &logs.path().join(format!("{reader:?}"))));
    let mut publisher = Publisher::connect(broker.address());
    let mut sent = Sent::default();
    let yesterday = now_millis() - 86_400_000;
    let (started, mut round) = (Instant::now(), 0);
    while started.elapsed() < WRITING || readers.iter_mut().any(|reader| reader.seen().len() < 10) {
        assert!(started.elapsed() < 5 * WRITING, "the readers see little: {:?}", readers.each_mut().map(|reader| reader.seen()));
        let mut messages: Vec<Outgoing> = Vec::new();
        for station in 0..STATIONS {
            // Of today and of a day that is over, what was there before, and other values for it.
            for millis in [now_millis(), yesterday + round * 1_000] {
                messages.push(sent.message(station, millis, round % 40));
            }
            if round > 10 && station % 4 == 0 {
                messages.push(sent.message(station, yesterday + (round - 10) * 1_000, (round - 10) % 40));
                messages.push(sent.message(station, yesterday + (round / 2) * 1_000, (round + 7) % 40));
            }
        }
        publisher.send(&messages);
        round += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut seen = Vec::new();
    for (kind, mut reader) in TableReader::ALL.into_iter().zip(readers) {
        seen.push((kind, reader.seen()));
    }
    let looks = setup.looks();
    looks.ledger_of(sent.messages);
    wait_until("everything is in the table", || {
        let log = &conca.get_json("/status").1["log"];
        (&log["rows_ordered"], &log["rows_late"]) == (&0.into(), &0.into())
    });
    // While corrections come, compactions lose against them; the last one need not.
    for what in ["\"operation\":\"OPTIMIZE\"", "\"operation\":\"VACUUM START\"", "\"remove\""] {
        wait_until("the table went through everything", || commits(&table).contains(what));
    }
    for (kind, seen) in seen {
        let mut before = 0;
        let mut distinct = 0;
        for look in &seen {
            assert_eq!(look.identities, look.rows, "{kind:?}: an identity is there twice: {look:?}");
            let [pm10, temperature] = ["pm10", "temperature"].map(|property| look.sums.get(property).copied().unwrap_or(0.0));
            assert!(pm10.to_bits() == (temperature * 4.0).to_bits(), "{kind:?}: a version was not whole: {look:?}");
            assert!(look.rows >= before, "{kind:?}: rows are gone: {look:?} after {before}");
            distinct += usize::from(look.rows > before);
            before = look.rows;
        }
        assert!(distinct >= 5, "{kind:?} saw {distinct} versions grow in {} looks", seen.len());
        assert_eq!(kind.look(table.to_str().unwrap(), &[]), sent.look(), "{kind:?}");
    }
    let counts = looks.ledger();
    assert_eq!((counts.stored, counts.pending), (i64::try_from(sent.look().rows).unwrap(), 0), "{counts:?}");
    assert!(counts.corrected > 0 && counts.duplicate > 0, "{counts:?}");
    let question = "/v1/aggregates?property=pm10&window=1mo&in_time=count&across=sum&quality=any&from=now-2d&to=now";
    let (_code, answer) = conca.get_json(question);
    let told: f64 = answer["series"][0]["buckets"].as_array().unwrap().iter().filter_map(|bucket| bucket["value"].as_f64()).sum();
    assert_eq!(told.to_bits(), (sent.values.len() as f64).to_bits(), "{answer:#}");
    conca.stop();
}

/// All that the table's log says, in one text.
fn commits(table: &std::path::Path) -> String {
    let log = std::fs::read_dir(table.join("_delta_log")).unwrap().flatten().map(|entry| entry.path());
    let commits = log.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    commits.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

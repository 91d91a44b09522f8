//! What the store's scan promises: of large files nothing is missed, and one question sees one state.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::state::DeviceIndex;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_in_files_of_many_pages() {
    const STEP: u64 = 20;
    let city = City::new("2026-06-30T00:00:00Z").await;
    let names: Vec<&'static str> = (0..16).map(|number| &*format!("d{:02}", (number * 7) % 16).leak()).collect();
    let start = at("2026-06-10T00:00:00Z");
    for hour in 0..24 {
        let mut batch = Vec::new();
        for step in 0..3_600 / STEP {
            let time = start.plus(seconds(hour * 3_600 + step * STEP));
            for (number, name) in names.iter().enumerate() {
                let told = Told { time, ..told(name, "pm10", "2026-06-10T00:00:00Z", number as f64) };
                batch.push(told);
                batch.push(Told { property: "noise", value: 60.0, ..told });
            }
        }
        city.hear(&batch);
    }
    city.flush().await;
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..30 {
        let from = start.plus(seconds(random.u64(..86_400)));
        let to = from.plus(seconds(random.u64(1..40_000)));
        let devices: Option<Vec<DeviceIndex>> =
            random.bool().then(|| (0..16).filter(|_device| random.u8(..) < 30).map(DeviceIndex).collect());
        let properties = if random.bool() { vec![city.property("pm10")] } else { Vec::new() };
        let is_asked = |(device, property, time): &&Identity| {
            let number = names.iter().position(|name| name == device).unwrap();
            (from.micros()..to.micros()).contains(time)
                && devices.as_ref().is_none_or(|devices| devices.iter().any(|device| device.0 as usize == number))
                && (properties.is_empty() || properties.contains(property))
        };
        let expected: Vec<Identity> = city.known.lock().keys().filter(is_asked).cloned().collect();
        for order in [Order::Any, Order::SeriesTime] {
            let selection = Selection { properties: properties.clone(), from, to, devices: devices.clone(), ..everything() };
            let mut found: Vec<Identity> = city.scan(selection, order).await.into_iter().map(|(identity, _value)| identity).collect();
            if order == Order::Any {
                found.sort_unstable();
            } else {
                // As the file is sorted: by property, device and time.
                assert!(found.is_sorted_by_key(|(device, property, time)| (
                    city.answers.catalogue.get(*property).id.clone(),
                    device.clone(),
                    *time
                )));
                found.sort_unstable();
            }
            assert!(found == expected, "{from} {to} {devices:?}: {} of {}", found.len(), expected.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_sees_one_state_while_the_table_is_rearranged() {
    let city = Arc::new(City::new("2026-06-30T00:00:00Z").await);
    let (begun, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let writing = {
        let (city, begun, done) = (Arc::clone(&city), Arc::clone(&begun), Arc::clone(&done));
        async move {
            let mut random = fastrand::Rng::with_seed(2);
            for round in 0..40_u64 {
                let time = at("2026-06-10T00:00:00Z").plus(seconds(round * 1_000));
                let new: Vec<Told> = (0..50)
                    .map(|step| Told { time: time.plus(seconds(step * 20)), ..told("a", "pm10", "2026-06-10T00:00:00Z", 1.0) })
                    .collect();
                // Late ones, and corrections that change no count.
                let late: Vec<Told> = new.iter().map(|new| Told { time: new.time.plus(seconds(7)), ..*new }).collect();
                let corrected: Vec<Told> = new.iter().map(|new| Told { value: 2.0, ..*new }).collect();
                begun.fetch_add(100, Ordering::SeqCst);
                city.hear(&new);
                city.hear(&late);
                city.hear(&corrected);
                done.fetch_add(100, Ordering::SeqCst);
                match random.u8(..4) {
                    0 => city.flush().await,
                    1 => city.merge().await,
                    2 => city.compact().await,
                    _ => tokio::task::yield_now().await,
                }
            }
        }
    };
    let asking = async {
        while done.load(Ordering::SeqCst) < 4_000 {
            for order in [Order::Any, Order::SeriesTime] {
                let before = done.load(Ordering::SeqCst);
                let found = city.scan(everything(), order).await;
                let after = begun.load(Ordering::SeqCst);
                let mut distinct: Vec<&Identity> = found.iter().map(|(identity, _value)| identity).collect();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), found.len(), "each identity once");
                assert!((before..=after).contains(&found.len()), "{} not from {before} to {after}", found.len());
            }
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(writing);
    asking.await;
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

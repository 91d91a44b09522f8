//! A city's devices: some days of history as fast as the broker takes it, then live, from exactly where history ended.
//!
//! Around 150 devices of every kind in [`model::KINDS`] stand in Palermo's districts and observe every property of the catalogue.
//! Values are pure functions of seed, device, property and time; only [`incident::INCIDENTS`] are relative to the time at which
//! the fleet goes live. A device's values do not depend on the scale. Left out: radio, gateways, and clocks that go wrong.

use std::time::Duration;

use anyhow::ensure;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::device::Device;
use self::incident::{Effect, INCIDENTS, Incident};
use self::model::{KINDS, Readings, Scene};
use self::moment::Moment;
use self::payload::Sample;
use self::schedule::Live;
use self::weather::Climate;
use crate::catalogue::{Catalogue, Property};
use crate::noise::whole;
use crate::publisher::{Broker, Counts, Publisher};

mod activity;
pub mod city;
pub mod device;
pub mod incident;
pub mod model;
mod moment;
pub mod payload;
pub mod schedule;
mod weather;

/// Unacknowledged messages at most; the broker may ask for fewer.
const WINDOW: u16 = 256;
/// What outstanding acknowledgements get at the end.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Settings {
    pub broker: Broker,
    pub seed: u64,
    /// Multiplies the number of devices of each kind; one stays at least.
    pub scale: f64,
    /// Simulated seconds in a real one.
    pub speed: f64,
    /// When the fleet goes live: the time now, unless a run is to be repeated.
    pub start: Timestamp,
    /// How much history is sent first.
    pub backfill: Duration,
    /// Phenomenon time at which the fleet stops.
    pub until: Option<Timestamp>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Part of the history that was sent; 1 once all of it is acknowledged.
    pub backfilled: f64,
    /// Phenomenon time of the last sample.
    pub time: Timestamp,
    pub counts: Counts,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub messages: Counts,
    /// Objects with a time.
    pub samples: u64,
    pub readings: u64,
    pub backfill_elapsed: Duration,
    pub elapsed: Duration,
}

/// Devices, and what they would say at any time.
#[derive(Debug)]
pub struct Fleet {
    devices: Vec<Device>,
    climate: Climate,
    /// When the incidents' clock starts.
    live: Timestamp,
}

impl Fleet {
    pub fn new(seed: u64, scale: f64, live: Timestamp) -> Self {
        let count = |kind: &model::Kind| usize::try_from(whole(kind.count as f64 * scale).max(1)).unwrap_or(usize::MAX);
        let devices = KINDS.iter().flat_map(|kind| (1..=count(kind)).map(move |number| Device::new(seed, kind, number))).collect();
        Self { devices, climate: Climate::new(seed), live }
    }

    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// What a device sends at a time; nothing while it is silent.
    pub fn sample(&self, device: &Device, time: Timestamp) -> Option<Sample> {
        let incidents: Vec<&Incident> = incidents_of(device).filter(|incident| self.lasts(incident, time)).collect();
        if incidents.iter().any(|incident| incident.effect == Effect::Silence) {
            return None;
        }
        let moment = Moment::at(time);
        let mut readings = Readings::default();
        (device.kind.model)(&Scene { device, moment: &moment, climate: &self.climate }, &mut readings);
        let mut values: Vec<(&'static Property, f64)> = Vec::with_capacity(readings.values.len());
        for (id, value) in readings.values {
            let Some(property) = Catalogue::embedded().get(id).filter(|_| device.tells(id, time)) else { continue };
            let value = incidents.iter().fold(value, |value, incident| self.disturb(incident, device, time, id, value));
            let nonsense = incidents.iter().any(|incident| is_nonsense(incident, device, time, id));
            values.push((property, if nonsense { value } else { property.settle(value) }));
        }
        Some(Sample { time, place: readings.place.unwrap_or(device.place), values })
    }

    /// The first time at or after this one at which a device sends: a regular sample, or a state that it tells at once.
    pub fn next_time(&self, device: &Device, time: Timestamp) -> Timestamp {
        let changes = incidents_of(device)
            .filter(|incident| matches!(incident.effect, Effect::Enter { .. }))
            .flat_map(|incident| [incident.starts(self.live), incident.ends(self.live)])
            .filter(|change| time <= *change);
        changes.chain([device.sample_from(time)]).min().unwrap_or(time)
    }

    fn lasts(&self, incident: &Incident, time: Timestamp) -> bool {
        (incident.starts(self.live)..incident.ends(self.live)).contains(&time)
    }

    fn disturb(&self, incident: &Incident, device: &Device, time: Timestamp, id: &str, value: f64) -> f64 {
        match incident.effect {
            Effect::Enter { property, code } if property == id => code as f64,
            Effect::Hold { property, value } | Effect::Nonsense { property, value, .. }
                if property == id && (matches!(incident.effect, Effect::Hold { .. }) || is_nonsense(incident, device, time, id)) =>
            {
                value
            }
            Effect::Particles { amount } => {
                let risen = (time.duration_since(incident.starts(self.live)).as_secs_f64() / 600.0).min(1.0);
                match id {
                    "pm10" => value + amount * risen,
                    "pm2_5" => value + 0.5 * amount * risen,
                    _ => value,
                }
            }
            // What is out of order neither shines nor charges.
            Effect::Enter { property: "charger_state", .. } if id == "charger_power" || id == "charger_energy" => 0.0,
            Effect::Enter { property: "lamp_state", .. } if id == "lamp_dimming" => 0.0,
            _ => value,
        }
    }
}

/// Sends the history, then goes live until the settings or `stop` say so.
pub async fn run(settings: Settings, progress: watch::Sender<Progress>, stop: CancellationToken) -> anyhow::Result<Report> {
    ensure!(settings.scale.is_finite() && 0.0 < settings.scale, "the scale must be positive");
    ensure!(settings.speed.is_finite() && 0.0 < settings.speed, "the speed must be positive");
    let start = Timestamp::from_second(settings.start.as_second())?;
    let fleet = Fleet::new(settings.seed, settings.scale, start);
    let from = start.checked_sub(SignedDuration::try_from(settings.backfill)?)?;
    let until = settings.until.unwrap_or(Timestamp::MAX);
    let begun = Instant::now();
    let client_id = format!("conca-fleet-{}", settings.seed);
    let publisher = Publisher::connect(&settings.broker, &client_id, WINDOW).await?;
    info!(devices = fleet.devices().len(), history_from = %from, live_from = %start, "fleet starts");
    let mut run = Run { publisher, progress, report: Report::default() };
    // Both only wait in `publish`, `settle` and `sleep_until`; dropped there they lose nothing that was counted.
    let sent = tokio::select! {
        sent = async {
            run.backfill(&fleet, from, start.min(until)).await?;
            run.report.backfill_elapsed = begun.elapsed();
            info!(samples = run.report.samples, seconds = run.report.backfill_elapsed.as_secs_f64(), "history is acknowledged");
            run.live(&fleet, start, until, begun, settings.speed).await
        } => sent,
        () = stop.cancelled() => Ok(()),
    };
    let messages = run.publisher.close(GRACE).await?;
    sent?;
    Ok(Report { messages, elapsed: begun.elapsed(), ..run.report })
}

struct Run {
    publisher: Publisher,
    progress: watch::Sender<Progress>,
    report: Report,
}

impl Run {
    async fn backfill(&mut self, fleet: &Fleet, from: Timestamp, to: Timestamp) -> anyhow::Result<()> {
        let whole_s = to.duration_since(from).as_secs_f64();
        for batch in schedule::history(fleet, from, to) {
            self.send(&batch.device.topic, payload::array(batch.device, &batch.samples), &batch.samples).await?;
            let done = (batch.block_end - schedule::BLOCK).max(from).duration_since(from).as_secs_f64() / whole_s;
            self.tell(done.min(0.999), batch.block_end);
        }
        self.publisher.settle().await?;
        self.tell(1.0, to);
        Ok(())
    }

    /// Everything from `start` on; what became due during the back-fill is sent at once.
    async fn live(&mut self, fleet: &Fleet, start: Timestamp, until: Timestamp, begun: Instant, speed: f64) -> anyhow::Result<()> {
        for (time, device) in Live::new(fleet, start).take_while(|(time, _)| *time < until) {
            sleep_until(begun + Duration::try_from_secs_f64(time.duration_since(start).as_secs_f64() / speed)?).await;
            if let Some(sample) = fleet.sample(device, time) {
                self.send(&device.topic, payload::single(device, &sample), std::slice::from_ref(&sample)).await?;
                self.tell(1.0, time);
            }
        }
        self.publisher.settle().await
    }

    async fn send(&mut self, topic: &str, payload: Vec<u8>, samples: &[Sample]) -> anyhow::Result<()> {
        self.publisher.publish(topic, payload).await?;
        self.report.samples += samples.len() as u64;
        self.report.readings += samples.iter().map(|sample| sample.values.len() as u64).sum::<u64>();
        Ok(())
    }

    fn tell(&self, backfilled: f64, time: Timestamp) {
        self.progress.send_replace(Progress { backfilled, time, counts: self.publisher.counts() });
    }
}

fn incidents_of(device: &Device) -> impl Iterator<Item = &'static Incident> {
    INCIDENTS.iter().filter(|incident| incident.concerns(device))
}

fn is_nonsense(incident: &Incident, device: &Device, time: Timestamp, id: &str) -> bool {
    matches!(incident.effect, Effect::Nonsense { property, every, .. } if property == id && device.tick(time) % every == 0)
}

#[cfg(test)]
mod tests;

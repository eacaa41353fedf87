//! The journal: events with their fields, and those of the process's life with a `MESSAGE_ID`.
//!
//! Fields get the prefix `PORTREEVE_`. Programs that watch the journal find an event by its id, whatever its words: ids are for ever, and
//! docs/logs-catalog.md lists them. An event of the process's life is one with a name of [`LIFE_CYCLE`]: `info!(name: "ready", …)`.

use std::io;

use tracing::{
    Event, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

/// The events of the process's life, and their ids.
const LIFE_CYCLE: &[(&str, &str)] = &[
    ("started", "41f6470e161d5dc2017eda9023952a5b"),
    ("ready", "284cb62ad29cf845a72411dc247dbcf6"),
    ("reload_begun", "de3fc50ce1840ef50b1efd4a49374443"),
    ("reload_done", "200d4625080dffe8ebf1e44f8ec16c86"),
    ("reload_failed", "1bfa0628bb1649314a6f2ab5bfa44a8d"),
    ("certificates_renewed", "cefd2f8e3143472a9b63e897bab0709c"),
    ("certificates_refused", "c3d6fca328aa4bfab019e9e489a5206c"),
    ("draining", "9379a04b6b14adf893ec2ccb6f4bcbcf"),
    ("ended", "0937e0e0ec15078d133ac0e30f1e5e7d"),
    ("listener_started", "41c8cffb5cbebe92a03fcdecfa76e6fb"),
    ("lease_ended", "0787741269100f7db5db488b042caa72"),
    ("worker_silent", "e7e1990bd7ab2bce0462be9228469e72"),
];

/// Writes events to the journal.
pub(super) struct Journal {
    plain: tracing_journald::Layer,
    /// The id is a field that a writer adds to all that it writes: each id has its own.
    life_cycle: Vec<(&'static str, tracing_journald::Layer)>,
}

impl Journal {
    /// # Errors
    /// There is no journal.
    pub(super) fn open() -> io::Result<Journal> {
        let life_cycle =
            LIFE_CYCLE.iter().map(|&(name, id)| Ok((name, writer()?.with_custom_fields([("MESSAGE_ID", id)]))));
        Ok(Journal { plain: writer()?, life_cycle: life_cycle.collect::<io::Result<_>>()? })
    }

    fn writer(&self, event: &Event<'_>) -> &tracing_journald::Layer {
        let metadata = event.metadata();
        let ours = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
        let found = self.life_cycle.iter().find(|(name, _)| ours && *name == metadata.name());
        found.map_or(&self.plain, |(_, writer)| writer)
    }
}

fn writer() -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_field_prefix(Some("PORTREEVE".to_owned()))
        .with_syslog_identifier(env!("CARGO_PKG_NAME").to_owned())
        .with_priority_mappings(priorities))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.plain.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.plain.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.writer(event).on_event(event, context);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_ids_and_no_two_the_same() {
        let ids: HashSet<_> = LIFE_CYCLE.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), LIFE_CYCLE.len());
        for id in ids {
            assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        }
    }

    #[test]
    fn every_id_is_documented() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logs-catalog.md")).unwrap();
        for (name, id) in LIFE_CYCLE {
            assert!(page.contains(&format!("`{id}`")), "{name}: {id}");
        }
    }
}

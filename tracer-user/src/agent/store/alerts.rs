//! Alerts that stand, in a table of their own.

use super::file::{File, StoreError};
use crate::agent::alert::{MAX_ALERTS, Remembered};
use redb::{
    ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, TableError,
};
use std::collections::BTreeMap;

/// An alert as JSON, by what it is about. The name carries the version of what stands in it.
const ALERTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("alerts/1");

impl File {
    /// The alerts of this boot. What cannot be read is left out.
    pub(super) fn read_alerts(&self, boot: &str) -> Result<Vec<Remembered>, StoreError> {
        self.guarded(|| {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(ALERTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let prefix = format!("{boot}/");
            let mut all = Vec::new();
            // Every row is looked at: this also finds what is damaged.
            for entry in table.iter()? {
                let (key, value) = entry?;
                if key.value().starts_with(&prefix)
                    && let Ok(alert) = serde_json::from_slice(value.value())
                    && all.len() < MAX_ALERTS
                {
                    all.push(alert);
                }
            }
            Ok(all)
        })
    }

    /// Makes these all that it holds, as one commit that is on the disk when this returns. Nothing is written where it holds them already.
    pub(super) fn write_alerts(&self, boot: &str, alerts: &[Remembered]) -> Result<(), StoreError> {
        self.guarded(|| {
            let mut wanted = BTreeMap::new();
            for alert in alerts.iter().take(MAX_ALERTS) {
                let json = serde_json::to_vec(alert).map_err(|error| redb::Error::Io(error.into()))?;
                wanted.insert(key(boot, alert), json);
            }
            let transaction = self.database.begin_write()?;
            let mut changed = false;
            {
                let mut table = transaction.open_table(ALERTS)?;
                let before = table.len()?;
                table.retain(|key, value| wanted.get(key).is_some_and(|json| json == value))?;
                changed |= table.len()? != before;
                for (key, json) in &wanted {
                    if table.get(key.as_str())?.is_none() {
                        changed = true;
                        table.insert(key.as_str(), json.as_slice())?;
                    }
                }
            }
            if changed {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(())
        })
    }
}

fn key(boot: &str, alert: &Remembered) -> String {
    let group = alert.group.as_deref().unwrap_or("-");
    format!("{boot}/{}/{}/{group}/{}", alert.pid, alert.start_ticks, alert.exe)
}

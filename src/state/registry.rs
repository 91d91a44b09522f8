//! What is said of devices, in the file.

use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};

use super::database::StateError;
use crate::model::{DeviceId, Registration, RegistrationDocument, Registry, Timestamp};

/// A change of what is said of devices.
#[derive(Clone, Debug)]
pub struct RegistryChange {
    /// When.
    pub changed: Timestamp,
    /// By whom.
    pub author: String,
    /// What is said from now on; `None` where that is nothing more.
    pub entries: Vec<(DeviceId, Option<Arc<Registration>>)>,
}

pub(super) fn write(transaction: &Transaction<'_>, change: &RegistryChange) -> Result<(), StateError> {
    for (device, registration) in &change.entries {
        match registration {
            Some(registration) => transaction
                .prepare_cached("INSERT OR REPLACE INTO registration (device, changed, author, document) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    device.as_str(),
                    change.changed.micros(),
                    change.author,
                    serde_json::to_string(registration.document()).expect("plain data always serialises")
                ])?,
            None => transaction.prepare_cached("DELETE FROM registration WHERE device = ?1")?.execute(params![device.as_str()])?,
        };
    }
    Ok(())
}

pub(super) fn restore(connection: &Connection) -> Result<Registry, StateError> {
    let mut registry = Registry::default();
    let mut select = connection.prepare("SELECT document FROM registration")?;
    for document in select.query_map([], |row| row.get::<_, String>(0))? {
        let document: RegistrationDocument =
            serde_json::from_str(&document?).map_err(|error| StateError::Damaged(format!("registration: {error}")))?;
        let id = document.id.clone();
        let registration =
            Registration::try_from(document).map_err(|problems| StateError::Damaged(format!("registration of {id}: {problems:?}")))?;
        registry.set(&id, Some(Arc::new(registration)));
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::super::database::{Commit, Database};
    use super::*;
    use crate::model::{Catalogue, Districts};

    fn open(folder: &std::path::Path) -> Database {
        Database::open(folder, &Arc::new(Catalogue::built_in()), &Arc::new(Districts::built_in())).unwrap().0
    }

    fn registered(database: &Database) -> Option<String> {
        let registry = database.live().registry();
        registry.find("a-1").and_then(|registration| registration.document().title.clone())
    }

    #[test]
    fn a_database_of_version_1_is_taken_over_with_all_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let old = Connection::open(folder.path().join("state.sqlite")).unwrap();
        old.execute_batch(include_str!("schema.sql")).unwrap();
        old.execute_batch(
            "PRAGMA user_version = 1; INSERT INTO incarnation VALUES ('5f0c7f0e-7d1e-4b7a-9a55-0d7c7a4d9f11');
             INSERT INTO device VALUES (0, 'a-1', 'air-station', 'environment', 1700000000000000); INSERT INTO series VALUES (0, 0, 'pm10', NULL);",
        )
        .unwrap();
        drop(old);
        let database = open(folder.path());
        assert_eq!(database.incarnation().to_string(), "5f0c7f0e-7d1e-4b7a-9a55-0d7c7a4d9f11");
        assert_eq!(database.live().read().find_device("a-1").map(|index| index.0), Some(0));

        let document = r#"{"id": "a-1", "title": "Via Roma", "kind": "air-station", "domain": "environment"}"#;
        let registration = Registration::try_from(serde_json::from_str::<RegistrationDocument>(document).unwrap()).unwrap();
        let id = registration.document().id.clone();
        let change = |registration| {
            let change = RegistryChange { changed: Timestamp::MIN, author: "me".to_owned(), entries: vec![(id.clone(), registration)] };
            Commit { registry: Some(change), ..Commit::default() }
        };
        database.turn().commit(change(Some(Arc::new(registration)))).unwrap();
        assert_eq!(registered(&database).as_deref(), Some("Via Roma"));
        drop(database);
        let database = open(folder.path());
        assert_eq!(registered(&database).as_deref(), Some("Via Roma"));
        database.turn().commit(change(None)).unwrap();
        drop(database);
        assert_eq!(registered(&open(folder.path())), None);
    }

    #[test]
    fn a_database_of_a_later_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        Connection::open(folder.path().join("state.sqlite")).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        let opened = Database::open(folder.path(), &Arc::new(Catalogue::built_in()), &Arc::new(Districts::built_in()));
        assert!(matches!(opened.unwrap_err(), StateError::NewerSchema { found: 99 }));
    }
}

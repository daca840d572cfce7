//! Every record of a state, as `check` looks at them: whole or not, and whether what is kept beside
//! the records agrees with them. What a message means is the caller's.

use super::records::told;
use super::value::{self, Damaged};
use super::{Kind, Snapshot, indexes, schema};
use crate::model::{Namespace, Result};

/// One record, as it lies there.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'t> {
    /// It was set aside.
    pub aside: bool,
    /// Its key.
    pub key: &'t [u8],
    /// Its message, if the checksum is right.
    pub message: Result<&'t [u8], Damaged>,
    /// How many entries it should have in the index, and how many of them are there.
    pub indexed: (u64, u64),
    /// What is noted of when it may be collected.
    pub expires: Option<&'t [u8]>,
}

/// How many entries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Records, of namespaces too.
    pub records: u64,
    /// Entries of the index.
    pub index: u64,
    /// Records that may be collected.
    pub expiring: u64,
    /// Records that were set aside.
    pub aside: u64,
}

impl Snapshot<'_> {
    /// Calls `visit` with every record in order of keys, then with those set aside.
    pub fn each(&self, visit: &mut dyn FnMut(Stored<'_>) -> Result<()>) -> Result<()> {
        let (txn, tables) = self.parts();
        for (aside, table) in [(false, tables.records), (true, tables.aside)] {
            for record in table.iter(txn).map_err(told)? {
                let (key, stored) = record.map_err(told)?;
                let message = value::unseal(key, stored);
                let mut indexed = (0, 0);
                let mut expires = None;
                if !aside {
                    for entry in message.map(|m| indexes::entries(key, m)).unwrap_or_default() {
                        let there = tables.index.get(txn, &entry).map_err(told)?.is_some();
                        indexed.0 += 1;
                        indexed.1 += u64::from(there);
                    }
                    expires = tables.expiring.get(txn, key).map_err(told)?;
                }
                visit(Stored { aside, key, message, indexed, expires })?;
            }
        }
        Ok(())
    }

    /// Whether there is a record under a key, set aside or not.
    pub fn has_key(&self, key: &[u8]) -> Result<bool> {
        let (txn, tables) = self.parts();
        Ok(tables.records.get(txn, key).map_err(told)?.is_some()
            || tables.aside.get(txn, key).map_err(told)?.is_some())
    }

    /// Whether a record of that name is set aside.
    pub fn is_aside(&self, namespace: &Namespace, kind: Kind, name: &str) -> Result<bool> {
        let (txn, tables) = self.parts();
        let found = tables.aside.get(txn, &schema::key(namespace, kind, name));
        Ok(found.map_err(told)?.is_some())
    }

    /// How many entries there are.
    pub fn counts(&self) -> Result<Counts> {
        let (txn, tables) = self.parts();
        Ok(Counts {
            records: tables.records.len(txn).map_err(told)?,
            index: tables.index.len(txn).map_err(told)?,
            expiring: tables.expiring.len(txn).map_err(told)?,
            aside: tables.aside.len(txn).map_err(told)?,
        })
    }
}

//! `lmdb-images stat`.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use indicatif::{BinaryBytes, HumanCount, HumanDuration};

use super::StoreArgs;
use super::output::{Failure, print};
use super::text::{MAX_CELL_CHARS, cell, pretty, table, visible};
use crate::admin::stat::{self, Stat as Found};

/// Show size, contents and readers of the store
///
/// Reads the files of the store. The daemon may keep running. A reader that is many commits behind keeps
/// free pages from being reused, so the file grows.
#[derive(Args)]
pub(crate) struct Stat {
    /// Print one JSON object (docs/json.md)
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    root: StoreArgs,
}

impl Stat {
    /// Reads the figures, and prints them.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let found = stat::run(&self.root.folder()?)?;
        if self.json {
            let json = pretty(&found)?;
            return print(|out| writeln!(out, "{json}"));
        }
        print(|out| {
            facts(out, &found)?;
            writeln!(out)?;
            namespaces(out, &found)?;
            writeln!(out)?;
            readers(out, &found)
        })
    }
}

fn facts(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    let size = &found.size;
    let filesystem = found.filesystem.as_deref().unwrap_or("unknown file system");
    writeln!(out, "Store:     {} ({filesystem})", visible(&found.root))?;
    writeln!(out, "UUID:      {}, schema {}", found.uuid, found.schema)?;
    match found.owner {
        Some(process) => writeln!(out, "In use by: process {process}")?,
        None => writeln!(out, "In use by: no process")?,
    }
    writeln!(out, "Commits:   {}", HumanCount(found.commits))?;
    writeln!(
        out,
        "File:      {}, {} of the disk; can grow to {}",
        BinaryBytes(size.file),
        BinaryBytes(size.disk),
        BinaryBytes(size.map)
    )?;
    writeln!(
        out,
        "Pages:     {} of {} B: {} in use, {} free to be used again; compact would give back {}",
        HumanCount(size.pages),
        size.page,
        HumanCount(size.used_pages),
        HumanCount(size.free_pages),
        BinaryBytes(size.reclaimable)
    )?;
    match &found.log {
        None => writeln!(out, "Log:       off"),
        Some(log) if log.last < log.first => writeln!(out, "Log:       no changes yet"),
        Some(log) => writeln!(
            out,
            "Log:       changes {} to {}, {}; the oldest {} ago",
            log.first,
            log.last,
            BinaryBytes(log.bytes),
            HumanDuration(Duration::from_secs(log.oldest_seconds.unwrap_or_default()))
        ),
    }
}

fn namespaces(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    table(out, "NAMESPACE\tIMAGES\tLEASES\tSET ASIDE", |rows| {
        let mut all = (0, 0, 0);
        for usage in &found.namespaces {
            let (images, leases, aside) = (usage.images, usage.leases, usage.set_aside);
            all = (all.0 + images, all.1 + leases, all.2 + aside);
            writeln!(rows, "{}\t{images}\t{leases}\t{aside}", visible(&usage.namespace))?;
        }
        writeln!(rows, "(all)\t{}\t{}\t{}", all.0, all.1, all.2)
    })
}

fn readers(out: &mut dyn Write, found: &Found) -> io::Result<()> {
    if found.readers.is_empty() {
        return writeln!(out, "Readers:   none");
    }
    table(out, "READER\tCOMMAND\tSTARTED\tCOMMITS BEHIND", |rows| {
        for reader in &found.readers {
            let command = reader.command.as_deref().unwrap_or("-");
            let started = reader.started_seconds_ago.map_or("-".into(), |s| format!("{s}s ago"));
            let gone = if reader.alive { "" } else { " (gone)" };
            writeln!(
                rows,
                "{}{gone}\t{}\t{started}\t{}",
                reader.process,
                cell(command, MAX_CELL_CHARS),
                HumanCount(reader.behind)
            )?;
        }
        Ok(())
    })
}
